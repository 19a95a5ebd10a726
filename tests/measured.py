"""The steps a strategy really takes, held against gradients taken by autograd alone."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from torch import Tensor, nn
from torch.utils.data import default_collate

from ong.curvature import find_blocks
from ong.plugins import OGD, ONG

Gradient = dict[str, Tensor]

PRESETS: dict[str, Any] = {
    "ogd": lambda **o: OGD(**o),
    "ngd": lambda **o: ONG(metric="current", projection="none", refresh_every=5, **o),
    "ong-v1": lambda **o: ONG(metric="current", projection="euclidean", refresh_every=5, **o),
    "ong": lambda **o: ONG(metric="current", memory="natural", projection="euclidean", refresh_every=5, **o),
    "ong-prior": lambda **o: ONG(metric="prior", projection="metric", damping=0.01, **o),
}
GUARANTEED = ("ogd", "ong-v1", "ong-prior")
"""The presets whose steps satisfy Gᵀv = 0."""


class Steps(SupervisedPlugin):
    """Notes every parameter's displacement in each step, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Gradient] = []
        self._before: Gradient = {}

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self._before = {name: p.detach().clone() for name, p in strategy.model.named_parameters()}

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        now = dict(strategy.model.named_parameters())
        self.taken.append({name: now[name].detach() - p for name, p in self._before.items()})


class HeldSteps(Steps):
    """The same by way of blocks, which lets ONG train in its metric's eigenbasis."""

    coordinate_free = True

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self._before = original(strategy.model)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        now = original(strategy.model)
        self.taken.append({name: now[name] - p for name, p in self._before.items()})


def original(model: nn.Module) -> Gradient:
    """Every parameter in the original coordinates, by name."""
    found = {name: p.detach().clone() for name, p in model.named_parameters()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        blocks = find_blocks(model, "ignore")
    for name, block in blocks.items():
        kinds = {"weight": block.weight, "bias": block.bias}
        block.scatter(block.values(), [found[f"{name}.{kind}"] for kind, p in kinds.items() if p is not None])
    return found


def stored(model: nn.Module, experience: Any) -> list[Gradient]:
    """∇h_y of every training example of a task, one backward pass each, in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    found = []
    for i in range(len(experience.dataset)):
        x, y, *_, task = (part[None] for part in default_collate([experience.dataset[i]]))
        x, y, task = x.flatten(0, 1), y.flatten(), task.flatten()
        logit = avalanche_forward(model, x, task)[0, y[0]]
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        grads = torch.autograd.grad(logit, list(named.values()), allow_unused=True)
        found.append({name: g for name, g in zip(named, grads, strict=True) if g is not None})
    for module, training in modes:
        module.training = training
    return found


def inner(gradient: Gradient, step: Gradient) -> float:
    """⟨g, v⟩; what a parameter has gained since the gradient was taken counts as zero in it."""
    return sum(
        float((g.double() * step[name][tuple(slice(0, n) for n in g.shape)].double()).sum())
        for name, g in gradient.items()
        if name in step
    )


def leak(gradients: list[Gradient], step: Gradient) -> float:
    """max_i |g_iᵀv| / (‖g_i‖‖v‖)."""
    length = sum(float(v.double().square().sum()) for v in step.values()) ** 0.5
    return max(
        abs(inner(g, step)) / sum(float(part.double().square().sum()) for part in g.values()) ** 0.5 / length
        for g in gradients
    )


def total(steps: list[Gradient]) -> Gradient:
    """The displacement of several steps together."""
    return {name: torch.stack([step[name] for step in steps]).sum(0) for name in steps[0]}
