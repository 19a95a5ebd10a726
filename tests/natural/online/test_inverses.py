from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ong.curvature import Factors
from ong.natural.online import EigenInverse, KroneckerInverse, Moments, balance_of, batch_moments, damped_inverse


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments_of(*batches: Factors, decay: float = 0.5) -> Moments:
    moments = Moments.empty(batches[0].outputs.shape[2], batches[0].inputs.shape[2], batches[0].inputs)
    for batch in batches:
        moments.add(*batch_moments(batch), decay)
    return moments


def batch(seed: int, examples: int = 8, positions: int = 1) -> Factors:
    return Factors(drawn(examples, positions, 4, seed=seed), drawn(examples, positions, 3, seed=seed + 1))


def per_example(factors: Factors) -> Tensor:
    """Gradients as vectors ``[N, rows · columns]``."""
    return torch.einsum("nto,nti->noi", factors.outputs, factors.inputs).flatten(1)


@pytest.mark.parametrize("balanced", [False, True])
def test_kronecker_inverse_is_the_dense_inverse_of_the_damped_kronecker_product(balanced: bool) -> None:
    moments, gradient = moments_of(batch(0), batch(5)), drawn(3, 4, seed=9)
    balance = balance_of(moments.inputs_cov, moments.outputs_cov) if balanced else 1.0
    dense = torch.kron(
        moments.outputs_cov + 0.3 / balance * torch.eye(3, dtype=torch.float64),
        moments.inputs_cov + 0.3 * balance * torch.eye(4, dtype=torch.float64),
    )
    expected = torch.linalg.solve(dense, gradient.reshape(-1)).reshape(3, 4)
    solved = KroneckerInverse.of(moments, 0.09, balanced=balanced).solve(gradient, 0.09)
    torch.testing.assert_close(solved, expected, rtol=1e-12, atol=1e-13)


def test_balance_is_the_root_of_the_ratio_of_mean_eigenvalues() -> None:
    assert balance_of(8 * torch.eye(3), 2 * torch.eye(5)) == pytest.approx(2.0)
    assert balance_of(torch.eye(3), torch.zeros(2, 2)) == 1.0


@pytest.mark.parametrize("positions", [1, 3])
def test_eigen_inverse_is_the_dense_inverse_in_the_factors_eigenbasis(positions: int) -> None:
    first, second, gradient = (
        batch(0, positions=positions),
        batch(5, positions=positions),
        drawn(3, 4, seed=9),
    )
    moments = moments_of(first, second)
    inverse = EigenInverse.of(moments)
    inverse.observe(first, 0.5)
    inverse.observe(second, 0.5)
    basis = torch.kron(
        torch.linalg.eigh(moments.outputs_cov).eigenvectors,
        torch.linalg.eigh(moments.inputs_cov).eigenvectors,
    )
    rotated = [(per_example(part) @ basis).square().mean(0) for part in (first, second)]
    values = (rotated[0] + 2 * rotated[1]) / 3  # weights ½·½ and ½, divided by their sum
    expected = basis @ ((basis.T @ gradient.reshape(-1)) / (values + 0.1))
    torch.testing.assert_close(inverse.solve(gradient, 0.1).reshape(-1), expected, rtol=1e-12, atol=1e-13)


def test_for_one_example_the_eigen_inverse_inverts_the_true_fisher_matrix() -> None:
    one, gradient = batch(0, examples=1), drawn(3, 4, seed=9)
    inverse = EigenInverse.of(moments_of(one))
    inverse.observe(one, 0.0)
    vector = per_example(one)[0]
    fisher = torch.outer(vector, vector) + 0.1 * torch.eye(12, dtype=torch.float64)
    expected = torch.linalg.solve(fisher, gradient.reshape(-1))
    torch.testing.assert_close(inverse.solve(gradient, 0.1).reshape(-1), expected, rtol=1e-11, atol=1e-12)


def test_new_bases_keep_the_trace_of_the_old_eigenvalues() -> None:
    first = batch(0)
    inverse = EigenInverse.of(moments_of(first))
    inverse.observe(first, 0.5)
    moved = EigenInverse.of(moments_of(first, batch(5)), inverse)
    assert float(moved.block.eigenvalues.sum()) == pytest.approx(float(inverse.block.eigenvalues.sum()), rel=1e-12)
    assert moved.weight == inverse.weight


def test_a_matrix_that_float32_cannot_factorise_is_inverted_in_float64() -> None:
    # A rank-one matrix without rounding, eigenvalue 9216; damping 1e-4 is 1e-8 of it, float32 rounds at 6e-8.
    column = torch.tensor([[64.0], [64.0], [32.0]])
    matrix = column @ column.T
    assert int(torch.linalg.cholesky_ex(matrix + 1e-4 * torch.eye(3)).info) > 0
    inverse = damped_inverse(matrix, 1e-4)
    expected = torch.linalg.inv(matrix.double() + 1e-4 * torch.eye(3, dtype=torch.float64))
    assert float((inverse - expected).norm() / expected.norm()) < 1e-6  # the float32 of the result
