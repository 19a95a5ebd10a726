from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ong.errors import UserError
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    LinearProblem,
    any_width_step,
    fisher_matrix,
    fisher_product,
    flatten,
    natural_gradient_residual,
    unflatten,
)

Make = Callable[..., tuple[DeepLinearNetwork, LinearProblem]]


def brute_force_fisher(network: DeepLinearNetwork, problem: LinearProblem) -> torch.Tensor:
    """E_x[ J_xᵀ Σ⁻¹ J_x ] over a finite set of inputs with covariance C, J_x by torch.func."""

    def output(vector: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        for weight in unflatten(vector, network):
            x = weight @ x
        return x

    xs = problem.input_root.T * problem.dims[0] ** 0.5
    jacobians = torch.func.vmap(torch.func.jacrev(output), in_dims=(None, 0))(flatten(network.weights), xs)
    inverse = torch.linalg.inv(problem.noise_cov)
    return torch.einsum("xap,ab,xbq->pq", jacobians, inverse, jacobians) / len(xs)


@pytest.mark.parametrize("dims", [[3, 2], [3, 4, 2], [4, 2, 3, 4]])
def test_fisher_matrix_is_the_mean_of_squared_output_jacobians(make: Make, dims: list[int]) -> None:
    network, problem = make(dims)
    torch.testing.assert_close(
        fisher_matrix(network, problem), brute_force_fisher(network, problem), rtol=0, atol=1e-12
    )


def test_fisher_product_is_the_matrix_times_the_vector(make: Make) -> None:
    network, problem = make([4, 2, 3, 4], input_rank=2)
    vector = torch.randn(network.parameter_count, generator=torch.Generator().manual_seed(0)).double()
    product = flatten(fisher_product(network, problem, unflatten(vector, network)))
    torch.testing.assert_close(product, fisher_matrix(network, problem) @ vector, rtol=0, atol=1e-12)


def test_residual_is_the_same_with_and_without_the_matrix(make: Make) -> None:
    network, problem = make([4, 2, 3, 4])
    step = [torch.ones_like(w) for w in network.weights]
    explicit = natural_gradient_residual(network, problem, step, explicit=True)
    assert explicit == pytest.approx(natural_gradient_residual(network, problem, step), rel=1e-12)
    assert natural_gradient_residual(network, problem, [torch.zeros_like(s) for s in step]) == 1.0


def test_at_the_teacher_the_residual_is_zero_and_the_step_too() -> None:
    network = DeepLinearNetwork.random([3, 3], generator=torch.Generator().manual_seed(0))
    eye = torch.eye(3, dtype=torch.float64)
    problem = LinearProblem(eye, network.product, eye)
    step = any_width_step(network, problem)
    assert natural_gradient_residual(network, problem, step) == 0.0
    assert float(flatten(step).abs().max()) == 0.0


def test_a_matrix_too_large_is_refused(make: Make) -> None:
    network, problem = make([65, 65])
    with pytest.raises(UserError, match="4225 weights is not formed"):
        fisher_matrix(network, problem)
