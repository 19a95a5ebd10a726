"""Synaptic intelligence against the paper's equations in a loop written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, Task, backward, parts, tasks
from nets import mlp
from torch import Tensor, nn

from ong.methods import SI

C, XI = 5.0, 0.05
Make = Callable[[Any], torch.optim.Optimizer]


def by_hand(stream: list[Task], make: Make, epochs: int) -> tuple[list[Tensor], list[Tensor]]:
    """The last weights, and Ω: Eqs. 3 to 5, loss + c Σ Ω(θ − θ̃)² by autograd, the loss's own g in ω."""
    model = mlp(6, 8, 3)
    weights = list(model.parameters())
    optimizer = make(weights)
    importance = [torch.zeros_like(p) for p in weights]
    for number, data in enumerate(stream):
        start = [p.detach().clone() for p in weights]
        path = [torch.zeros_like(p) for p in weights]
        for part in (part for _ in range(epochs) for part in parts(data, 8)):
            backward(model, part)
            own = [p.grad.clone() for p in weights]  # type: ignore[union-attr]
            loss = nn.functional.cross_entropy(model(part[0]), part[1])
            if number:
                for p, omega, anchor in zip(weights, importance, start, strict=True):  # θ̃ is where the task began
                    loss = loss + C * (omega * (p - anchor) ** 2).sum()
            optimizer.zero_grad()
            loss.backward()
            before = [p.detach().clone() for p in weights]
            optimizer.step()
            for k, p in enumerate(weights):
                path[k] -= own[k] * (p.detach() - before[k])
        for k, p in enumerate(weights):
            importance[k] += path[k].clamp_min(0) / ((p.detach() - start[k]) ** 2 + XI)
        if isinstance(optimizer, torch.optim.SGD):
            for state in optimizer.state.values():
                state.pop("momentum_buffer", None)  # as every method here does between tasks
    return [p.detach() for p in weights], importance


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_is_the_papers_and_the_path_is_of_steps_that_were_really_taken(name: str) -> None:
    stream = tasks(3)
    method = SI(strength=C, damping=XI)
    learner = Learner(method, optimizer=lambda p, lr: OPTIMIZERS[name](p)).learn(*stream, epochs=4)
    weights, importance = by_hand(stream, OPTIMIZERS[name], 4)
    for ours, theirs in zip(learner.model.parameters(), weights, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-8, atol=1e-10)  # rounding of 36 steps
    for block, (w, b) in (("0", importance[:2]), ("2", importance[2:])):
        torch.testing.assert_close(method.importance[block], torch.cat([w, b[:, None]], 1), rtol=1e-8, atol=1e-10)


def test_the_penalty_does_something() -> None:
    ends = []
    for strength in (0.0, C):
        learner = Learner(SI(strength=strength, damping=XI), lr=0.1).learn(*tasks(3), epochs=4)
        ends.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert (ends[0] - ends[1]).abs().max() > 0.01


@torch.no_grad()
def loss(learner: Learner, data: Task) -> float:
    return float(nn.functional.cross_entropy(learner.model(data[0]), data[1]))


def test_importance_sums_to_the_decrease_of_the_loss_along_a_short_path() -> None:
    """Σ_i ω_i = −∫ g dθ: the whole decrease of the loss, to first order in the rate."""
    (data,) = tasks(1)
    gaps = []
    for lr, epochs in ((0.1, 10), (0.01, 100)):
        method = SI(damping=XI)
        learner = Learner(method, lr=lr, batch=24)
        before = loss(learner, data)
        method.begin_task(data)
        learner.train(data, epochs=epochs)
        total = sum(float(part.sum()) for part in method._path.values())
        decrease = before - loss(learner, data)
        gaps.append(abs(total - decrease) / decrease)
    assert gaps[1] == pytest.approx(gaps[0] / 10, rel=0.2)
    assert gaps[0] < 0.1


def test_rows_that_a_head_gains_begin_without_importance() -> None:
    first, second = tasks(2)
    method = SI(strength=C, damping=XI)
    learner = Learner(method).learn(first)
    old = method.importance["2"].clone()
    new = nn.Linear(8, 5).double()
    with torch.no_grad():
        new.weight[:3], new.bias[:3] = learner.model[2].weight, learner.model[2].bias
    learner.model[2] = new
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
    method.attach(learner.model, learner.optimizer)
    method.begin_task(second)
    learner.nudge(0.5)
    gradient = torch.zeros(56 + 45, dtype=torch.float64)
    pull = learner.update(gradient)[56:].reshape(5, 9)
    assert not pull[3:].any()
    moved = learner.blocks["2"].values()[:3] - method.weights["2"]
    torch.testing.assert_close(pull[:3], 2 * C * old * moved, **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"strength": -0.1}, "strength must not be negative"), ({"damping": 0.0}, "damping must be positive")],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SI(**options)
