from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ong.errors import UserError
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    LinearProblem,
    batch_gradients,
    make_data,
    make_problem,
)

Make = Callable[..., tuple[DeepLinearNetwork, LinearProblem]]

EYE2, EYE3 = torch.eye(2, dtype=torch.float64), torch.eye(3, dtype=torch.float64)


def finite_population(problem: LinearProblem) -> tuple[torch.Tensor, torch.Tensor]:
    """Finitely many (x, y) with just the problem's C and Σ: columns of scaled roots, each with both signs."""
    n_in, n_out = problem.dims
    noise_root = torch.linalg.cholesky(problem.noise_cov)
    xs = torch.cat([problem.input_root, -problem.input_root], dim=1).T * n_in**0.5
    noises = torch.cat([noise_root, -noise_root], dim=1).T * n_out**0.5
    inputs = xs.repeat_interleave(len(noises), dim=0)
    return inputs, inputs @ problem.teacher.T + noises.repeat(len(xs), 1)


def test_expected_losses_are_means_over_a_population(make: Make) -> None:
    network, problem = make([3, 4, 2])
    inputs, targets = finite_population(problem)
    residuals = targets - inputs @ network.product.T
    squared = 0.5 * residuals.square().sum(dim=1).mean()
    weighted = 0.5 * ((residuals @ torch.linalg.inv(problem.noise_cov)) * residuals).sum(dim=1).mean()
    # Sums of 24 terms of order 1.
    assert problem.loss(network.product) == pytest.approx(float(squared), rel=1e-13)
    assert problem.likelihood_excess(network.product) + 2 / 2 == pytest.approx(float(weighted), rel=1e-13)
    assert problem.loss(problem.teacher) == problem.floor


def test_gradients_are_those_of_autograd(make: Make) -> None:
    network, problem = make([3, 4, 2])
    weights = [w.clone().requires_grad_() for w in network.weights]
    inputs, targets = finite_population(problem)
    residuals = targets - inputs @ (weights[1] @ weights[0]).T
    likelihood = 0.5 * ((residuals @ torch.linalg.inv(problem.noise_cov)) * residuals).sum(dim=1).mean()
    squared = 0.5 * residuals.square().sum(dim=1).mean()
    for loss, ours in (
        (likelihood, problem.gradients(network)),
        (squared, problem.squared_error_gradients(network)),
        (squared, batch_gradients(network, inputs, targets)),
    ):
        for gradient, mine in zip(torch.autograd.grad(loss, weights, retain_graph=True), ours, strict=True):
            torch.testing.assert_close(mine, gradient, rtol=0, atol=1e-13)


@pytest.mark.parametrize("count", [3, 50])
def test_a_batch_is_a_problem_with_the_batch_gradients(count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    network = DeepLinearNetwork.random([5, 6, 2], generator=generator)
    inputs = torch.randn(count, 5, generator=generator, dtype=torch.float64)
    targets = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    posed = LinearProblem.from_batch(inputs, targets, EYE2)
    assert posed.input_rank == min(count, 5)
    # A pseudo-inverse of a well-conditioned covariance, also with fewer examples than inputs.
    for ours, theirs in zip(posed.gradients(network), batch_gradients(network, inputs, targets), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [10, 19, 50])
def test_float32_batches_are_problems_too(count: int) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        inputs, targets = torch.randn(count, 20, generator=generator), torch.randn(count, 2, generator=generator)
        posed = LinearProblem.from_batch(inputs, targets, EYE2.float())
        assert posed.input_rank == min(count, 20)


@pytest.mark.parametrize(("setting", "floor"), [("net1", 1e-5), ("net2", 1e-5), ("net3", 1e-4)])
def test_the_floor_is_half_the_noise_variance_an_output(setting: str, floor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    problem = make_problem(setting, generator=generator)
    assert problem.floor == pytest.approx(floor, rel=1e-12)
    data = make_data(problem, generator=generator)
    residuals = data.test_targets - data.test_inputs @ problem.teacher.T
    # 1,000 examples of 20 outputs: relative standard error √(2/20000) = 1%.
    assert 0.5 * float(residuals.square().sum(dim=1).mean()) == pytest.approx(floor, rel=0.05)


def test_samples_have_the_covariances_asked_for(make: Make) -> None:
    _, problem = make([3, 2])
    inputs, targets = problem.sample(200_000, generator=torch.Generator().manual_seed(0))
    noise = targets - inputs @ problem.teacher.T
    # Standard error of a covariance entry ≤ √2 · 2/√200000 = 0.006; five of them.
    torch.testing.assert_close(inputs.T @ inputs / len(inputs), problem.input_cov, rtol=0, atol=0.03)
    torch.testing.assert_close(noise.T @ noise / len(noise), problem.noise_cov, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("cov", "teacher", "noise", "message"),
    [
        (EYE2, EYE3, EYE3, r"input covariance must have shape \(3, 3\)"),
        (EYE3, EYE3, EYE2, r"output noise covariance must have shape \(3, 3\)"),
        (EYE3, torch.zeros(3), EYE3, "must be a matrix"),
        (EYE2, EYE2, torch.diag(torch.tensor([1.0, 0.0])).double(), "noise covariance is singular"),
        (EYE2, EYE2, torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double(), "not symmetric"),
        (torch.diag(torch.tensor([1.0, -1.0])).double(), EYE2, EYE2, "negative eigenvalue"),
        (EYE2 * float("nan"), EYE2, EYE2, "NaN"),
    ],
)
def test_bad_moments_are_refused(cov: torch.Tensor, teacher: torch.Tensor, noise: torch.Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LinearProblem(cov, teacher, noise)


def test_a_network_of_other_ends_is_refused(make: Make) -> None:
    _, problem = make([3, 2])
    with pytest.raises(UserError, match="4 inputs and 2 outputs does not fit a teacher of 3"):
        problem.gradients(DeepLinearNetwork.random([4, 2]))
