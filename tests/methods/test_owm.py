"""Orthogonal weights modification against the recursion it was published as, and against a metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, cosine, leak, task, tasks, vectors
from nets import mlp
from torch import Tensor

from ong.curvature import EKFAC, EigenBlock, Metric, find_blocks
from ong.methods import OWM
from ong.methods.owm import owm_projector


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
def test_the_projector_is_where_the_papers_recursion_ends(alpha: float) -> None:
    """P ← P − k xᵀP, k = P x/(α + xᵀPx), from P = I, over the examples of two tasks, each divided by √n."""
    past = [random(7, 5, seed=1), 3 * random(4, 5, seed=2)]
    recursive = torch.eye(5, dtype=torch.float64)
    for inputs in past:
        for x in inputs / len(inputs) ** 0.5:
            gain = recursive @ x / (alpha + x @ recursive @ x)
            recursive = recursive - torch.outer(gain, x @ recursive)
    covariance = torch.stack([inputs.T @ inputs / len(inputs) for inputs in past]).sum(0)
    torch.testing.assert_close(owm_projector(covariance, alpha), recursive, rtol=1e-10, atol=1e-12)


def test_the_projector_is_the_papers_closed_form() -> None:
    """P = I − X(XᵀX + αI)⁻¹Xᵀ, past inputs in the columns of X."""
    x, alpha = random(6, 4), 0.3
    expected = (
        torch.eye(6, dtype=torch.float64)
        - x @ torch.linalg.inv(x.T @ x + alpha * torch.eye(4, dtype=torch.float64)) @ x.T
    )
    torch.testing.assert_close(owm_projector(x @ x.T, alpha), expected, rtol=1e-10, atol=1e-12)


def test_the_update_is_the_gradient_times_the_recursions_end_layer_by_layer() -> None:
    """Inputs of each layer by hand, with the one of the bias, at the weights each task ended with."""
    first, second, third = tasks(3)
    learner, alpha = Learner(OWM(alpha=0.3)), 0.3
    p = {"0": torch.eye(7, dtype=torch.float64), "2": torch.eye(9, dtype=torch.float64)}
    for data in (first, second):
        learner.learn(data)
        hidden = torch.tanh(learner.model[0](data[0])).detach()
        for name, inputs in (("0", data[0]), ("2", hidden)):
            for x in torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], 1) / len(inputs) ** 0.5:
                gain = p[name] @ x / (alpha + x @ p[name] @ x)
                p[name] = p[name] - torch.outer(gain, x @ p[name])
    learner.begin(third)
    for vector in vectors(learner.blocks):
        first_layer, last_layer = vector[:56].reshape(8, 7) @ p["0"], vector[56:].reshape(3, 9) @ p["2"]
        expected = torch.cat([first_layer.flatten(), last_layer.flatten()])
        torch.testing.assert_close(learner.update(vector), expected, **EXACT)
    assert learner.method.memory_bytes == 8 * (7 * 7 + 9 * 9)


def test_a_step_is_that_of_a_metric_with_the_identity_for_the_outputs() -> None:
    """F = I ⊗ A has eigenvalues 1 ⊗ D_A; its λ(F+λ)⁻¹ at λ = α is OWM's projector."""
    blocks = find_blocks(mlp(6, 4, seed=1))
    (name,) = blocks
    a = random(20, 7)
    covariance, alpha, g = a.T @ a / 20, 0.2, random(4, 7, seed=3)
    values, basis = torch.linalg.eigh(covariance)
    eye = torch.eye(4, dtype=torch.float64)
    zero = torch.zeros(4, dtype=torch.float64)
    block = EigenBlock(basis, values, zero[0], eye, zero + 1, values.expand(4, 7), zero)
    expected = Metric(EKFAC(None, {name: block}), blocks, alpha).precondition({name: g})[name]
    torch.testing.assert_close(g @ owm_projector(covariance, alpha), expected, rtol=1e-10, atol=1e-12)


def leak_and_descent(alpha: float, seed: int = 0) -> tuple[float, float]:
    """The largest leak of a third task's steps, and the smallest descent cosine."""
    learner = Learner(OWM(alpha=alpha, seed=seed), mlp(6, 30, 3, seed=seed))
    found = []
    *stream, last = tasks(3, seed=seed, examples=6)
    for data in stream:
        found.append(learner.learn(data).gradients(data))
    learner.learn(last)
    leaks = [leak(torch.cat(found, 1), step.update) for step in learner.steps]
    return max(leaks), min(cosine(step.gradient, step.update) for step in learner.steps)


@pytest.mark.parametrize("seed", range(6))
def test_every_step_descends(seed: int) -> None:
    assert leak_and_descent(0.1, seed)[1] > 0


def test_old_outputs_move_at_first_order_the_less_the_smaller_alpha() -> None:
    leaks = [leak_and_descent(alpha)[0] for alpha in (10.0, 0.1, 1e-6)]
    assert leaks[0] > leaks[1] > leaks[2]
    assert leaks[1] > 1e-2  # no exact Gᵀv = 0


def test_the_first_task_is_trained_plainly() -> None:
    learner = Learner(OWM()).learn(task())
    for step in learner.steps:
        torch.testing.assert_close(step.update, step.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 0.0}, "alpha must be positive"), ({"examples_per_task": 0}, "examples_per_task must be at least 1")],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OWM(**options)
