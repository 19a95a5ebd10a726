"""Natural continual learning: what its step is, and what it promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, cosine, fisher_matrix, identity, tasks, vectors
from torch import Tensor

from ong.methods import NCL

DAMPING = 0.02


def second_task(batch: int = 8, **options: Any) -> tuple[Tensor, Tensor, Learner]:
    """F, μ, and the learner in a second task after its steps."""
    first, second = tasks(2)
    learner = Learner(NCL(**{"damping": DAMPING} | options), batch=batch).learn(first)
    learner.method.begin_task(second)
    f, anchor = fisher_matrix(learner.method.past.ekfac, learner.blocks), learner.weights
    learner.steps = []
    learner.train(second, epochs=2)
    return f, anchor, learner


@pytest.mark.parametrize("rank", [None, 2])
def test_the_default_is_the_published_update_times_the_damping(rank: int | None) -> None:
    """v = λ[Λ⁻¹∇ℓ + (θ − μ)] with Λ = F + λ inverted as a matrix: the paper's with λ = λ₀, γ = 1."""
    f, anchor, learner = second_task(rank=rank)
    precision = f + DAMPING * identity(f)
    for step in learner.steps:
        expected = DAMPING * (torch.linalg.solve(precision, step.gradient) + step.weights - anchor)
        # (θ before − θ after)/lr loses three digits to cancellation
        torch.testing.assert_close(step.update, expected, rtol=1e-8, atol=1e-11)
    assert (learner.steps[-1].weights - anchor).norm() > 1e-2  # the pull had something to pull


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(("pull", "prior"), [(0.0, None), (1.0, None), (0.3, 0.0), (2.0, 0.01)])
def test_the_update_is_the_formula_in_matrices(pull: float, prior: float | None, rank: int | None) -> None:
    """v = M⁻¹(g + γ(F + λ₀)(θ − μ)), M = I + F/λ."""
    f, anchor, learner = second_task(pull=pull, prior_precision=prior, rank=rank)
    learner.nudge()
    m = identity(f) + f / DAMPING
    drawn = pull * (f + (DAMPING if prior is None else prior) * identity(f)) @ (learner.weights - anchor)
    for vector in vectors(learner.blocks):
        torch.testing.assert_close(learner.update(vector), torch.linalg.solve(m, vector + drawn), **EXACT)


@pytest.mark.parametrize("seed", range(6))
def test_without_pull_every_step_descends(seed: int) -> None:
    _, _, learner = second_task(pull=0.0, seed=seed)
    assert all(cosine(step.gradient, step.update) > 0 for step in learner.steps)


def test_every_step_descends_the_penalised_loss_and_with_a_strong_pull_not_always_the_loss() -> None:
    f, anchor, learner = second_task(batch=24, pull=1500.0)  # lr·γλ = 1.5: the pull oversteps μ
    precision = f + DAMPING * identity(f)
    for step in learner.steps:
        assert (step.gradient + 1500 * precision @ (step.weights - anchor)) @ step.update >= 0
    assert min(float(step.gradient @ step.update) for step in learner.steps) < 0


def test_in_directions_that_no_task_has_used_the_step_is_sgds() -> None:
    """The rate keeps its meaning whatever λ: Fu = 0 makes M⁻¹u = u."""
    f, _, learner = second_task(pull=0.0, damping=1e-6, fisher="exact", examples_per_task=4)
    values, basis = torch.linalg.eigh(f)
    assert values[0] < 1e-14 < 1e-3 < values[-1]
    torch.testing.assert_close(learner.update(basis[:, 0]), basis[:, 0], rtol=0, atol=1e-6)
    assert learner.update(basis[:, -1]).norm() < 1e-3


def test_the_first_task_is_trained_plainly() -> None:
    (data,) = tasks(1)
    learner = Learner(NCL()).learn(data)
    for step in learner.steps:
        torch.testing.assert_close(step.update, step.gradient, rtol=1e-9, atol=1e-12)


def test_rows_that_a_head_has_gained_are_drawn_nowhere() -> None:
    """F is zero there, and so is θ − μ: the step is the gradient."""
    first, second = tasks(2, classes=2)
    learner = Learner(NCL(damping=1.0), torch.nn.Sequential(torch.nn.Linear(6, 2)).double()).learn(first)
    old = learner.model[0]
    new = torch.nn.Linear(6, 4).double()
    with torch.no_grad():
        new.weight[:2], new.bias[:2] = old.weight, old.bias
    learner.model[0] = new
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
    learner.method.attach(learner.model, learner.optimizer)
    learner.method.begin_task(second)
    learner.steps = []
    learner.train(second)
    for step in learner.steps:
        update, gradient = (v.reshape(4, 7) for v in (step.update, step.gradient))
        # θ − μ = what the steps before moved, drawn by λ₀ alone
        moved = step.weights.reshape(4, 7)[2:] - learner.steps[0].weights.reshape(4, 7)[2:]
        torch.testing.assert_close(update[2:], gradient[2:] + 1.0 * moved, rtol=1e-8, atol=1e-11)
        assert (update[:2] - gradient[:2]).norm() > 0.01 * gradient[:2].norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be positive"),
        ({"prior_precision": 0.2, "damping": 0.1}, "between 0 and damping"),
        ({"prior_precision": -0.1}, "between 0 and damping"),
        ({"pull": -1.0}, "pull must be at least 0"),
        ({"fisher": "true"}, "unknown Fisher type"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NCL(**options)
