from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ong.errors import UserError
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    LinearProblem,
    fisher_matrix,
    flatten,
    hessian_matrix,
    newton_step,
    unflatten,
)

Make = Callable[..., tuple[DeepLinearNetwork, LinearProblem]]


def numerical_hessian(network: DeepLinearNetwork, problem: LinearProblem, h: float = 1e-4) -> torch.Tensor:
    """Central differences of the exact gradients."""
    theta = flatten(network.weights)

    def gradient(vector: torch.Tensor) -> torch.Tensor:
        moved = DeepLinearNetwork(tuple(unflatten(vector, network)))
        return flatten(problem.gradients(moved))

    basis = torch.eye(len(theta), dtype=theta.dtype)
    return torch.stack([(gradient(theta + h * e) - gradient(theta - h * e)) / (2 * h) for e in basis])


def test_hessian_is_the_derivative_of_the_gradients(make: Make) -> None:
    network, problem = make([3, 2, 4, 2])
    # Central differences err by h² = 1e-8 times third derivatives (order 10).
    torch.testing.assert_close(hessian_matrix(network, problem), numerical_hessian(network, problem), rtol=0, atol=1e-5)


def test_at_the_optimum_the_hessian_is_the_fisher_matrix(make: Make) -> None:
    network, given = make([3, 4, 2])
    problem = LinearProblem(given.input_cov, network.product, given.noise_cov)
    torch.testing.assert_close(hessian_matrix(network, problem), fisher_matrix(network, problem), rtol=0, atol=1e-12)


def test_one_layer_is_solved_by_one_newton_step(make: Make) -> None:
    network, problem = make([4, 3])
    reached = network.moved(newton_step(network, problem))
    torch.testing.assert_close(reached.product, problem.teacher, rtol=0, atol=1e-12)


def test_newton_converges_quadratically_near_the_optimum(make: Make) -> None:
    network, given = make([3, 4, 2])
    problem = LinearProblem(given.input_cov, network.product, given.noise_cov)
    generator = torch.Generator().manual_seed(1)
    noise = [0.003 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in network.weights]
    state, excess = network.moved(noise), []
    for _ in range(4):
        excess.append(problem.excess(state.product))
        state = state.moved(newton_step(state, problem))
    # The error squares, so the excess does too, up to a constant: at least halved distance in digits.
    assert excess[1] < 1e-2 * excess[0]
    assert excess[2] < 1e-5 * excess[1]


def test_damped_newton_solves_the_damped_system(make: Make) -> None:
    network, problem = make([3, 2, 2])
    hessian = hessian_matrix(network, problem)
    damped = hessian + 5.0 * torch.eye(len(hessian), dtype=hessian.dtype)
    expected = -torch.linalg.solve(damped, flatten(problem.gradients(network)))
    ours = flatten(newton_step(network, problem, damping=5.0))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)


def test_newton_refuses_large_networks(make: Make) -> None:
    network, problem = make([40, 40])
    with pytest.raises(UserError, match="Hessian of 1600 parameters"):
        newton_step(network, problem)
