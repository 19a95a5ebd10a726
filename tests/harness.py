"""Small Avalanche runs on random tensors, and the steps they really take beside gradients by autograd alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.models.utils import avalanche_forward
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn
from torch.utils.data import default_collate

from ong import methods
from ong.plugins import EWC, FOPNG, GPM, NCL, NGD, OGD, ONG, OWM, SGP, SI, OGDPlus, ONGPrior, ONGv1, as_plugin
from ong.streams import TaskData, benchmark_from_tensors

Gradient = dict[str, Tensor]
"""A vector over the parameters, by their names."""

EXAMPLES = 12
EXACT = 1e-6  # float64; GᵀG squares the condition of G, of which 1e-6 is cut

_CURRENT: dict[str, Any] = {"refresh_every": 5, "examples_per_task": 10, "damping": 1.0}
PLUGINS: dict[str, Callable[..., Any]] = {
    "ogd": lambda **o: OGD(**{"directions_per_task": EXAMPLES} | o),
    "ogd+": lambda **o: OGDPlus(**{"directions_per_task": EXAMPLES} | o),
    "ngd": lambda **o: NGD(**_CURRENT | o),
    "ong-v1": lambda **o: ONGv1(**{"directions_per_task": EXAMPLES} | _CURRENT | o),
    "ong": lambda **o: ONG(**{"directions_per_task": EXAMPLES} | _CURRENT | o),
    "ong-prior": lambda **o: ONGPrior(**{"directions_per_task": EXAMPLES, "damping": 0.05} | o),
    "ncl": lambda **o: NCL(**{"damping": 1.0} | o),
    "fopng": lambda **o: FOPNG(**{"directions_per_task": 4} | _CURRENT | o),
    "owm": lambda **o: OWM(**o),
    "gpm": lambda **o: GPM(**o),
    "sgp": lambda **o: SGP(**o),
    "ewc": lambda **o: EWC(**{"strength": 3.0} | o),
    "si": lambda **o: SI(**{"strength": 5.0} | o),
}
PLUGINS |= {  # a method in a new file, with the options it has by default
    name: as_plugin(method)
    for name, method in methods.METHODS.items()
    if name != "ONGReplay" and method not in {type(make().method) for make in PLUGINS.values()}
}
"""Every method as a plugin, but replay, which needs a loader's examples."""
STAY = ("ogd", "ong-v1", "ong-prior")
"""Those whose steps satisfy Gᵀv = 0 with gradients of the weights each task ended with."""


def tasks(
    count: int,
    examples: int = 24,
    width: int | tuple[int, ...] = 6,
    classes: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Any:
    """A benchmark of random tensors, the same for training and test."""
    generator = torch.Generator().manual_seed(seed)
    shape = (width,) if isinstance(width, int) else width
    parts = []
    for _ in range(count):
        x = torch.randn(examples, *shape, generator=generator, dtype=torch.float64).to(dtype)
        y = torch.randint(0, classes, (examples,), generator=generator)
        parts.append(TaskData(train=(x, y), test=(x, y)))
    return benchmark_from_tensors(parts, **options)


def stream(count: int = 3, **options: Any) -> Any:
    """The training stream of small tasks, of which every example's directions are kept."""
    return tasks(count, **{"examples": EXAMPLES} | options).train_stream


def learner(
    model: nn.Module,
    *plugins: Any,
    lr: float = 0.05,
    batch: int = 4,
    epochs: int = 1,
    kind: type[Naive] = Naive,
    loggers: Iterable[Any] = (),
    **sgd: Any,
) -> Naive:
    """Avalanche's Naive, or another strategy, with SGD and the plugins given."""
    return kind(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, **sgd),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=list(loggers)),
    )


def train(strategy: Any, experiences: Any) -> None:
    """Train on experiences; Avalanche's loaders and buffers draw from the global generator."""
    torch.manual_seed(0)
    for experience in experiences:
        strategy.train(experience, eval_streams=[])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class Steps(SupervisedPlugin):  # type: ignore[misc]
    """Notes every parameter's displacement in each step, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Gradient] = []
        self._before: Gradient = {}

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self._before = {name: p.detach().clone() for name, p in strategy.model.named_parameters()}

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        now = dict(strategy.model.named_parameters())
        self.taken.append({name: now[name].detach() - p for name, p in self._before.items()})


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


def norm(gradient: Gradient) -> float:
    return sum(float(part.double().square().sum()) for part in gradient.values()) ** 0.5


def leak(gradients: list[Gradient], step: Gradient) -> float:
    """max_i |g_iᵀv| / (‖g_i‖‖v‖)."""
    return max(abs(inner(g, step)) / norm(g) for g in gradients) / norm(step)


def total(steps: list[Gradient]) -> Gradient:
    """The displacement of several steps together."""
    return {name: torch.stack([step[name] for step in steps]).sum(0) for name in steps[0]}
