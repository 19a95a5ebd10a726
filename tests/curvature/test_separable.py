"""Positive matrices as sums of few products, and the metric that is made of one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from nets import mlp
from scipy.optimize import least_squares
from torch import Tensor

from ong.curvature import EKFAC, Metric, find_blocks
from ong.curvature.separable import separable


def positive(rows: int, columns: int, terms: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.rand(n, terms, generator=generator, dtype=torch.float64) + 0.05 for n in (rows, columns))
    return p @ q.T


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_a_sum_of_few_products_is_found_exactly(terms: int) -> None:
    matrix = positive(60, 80, terms)
    found = separable(matrix, 1e-6)
    assert found is not None
    p, q = found
    assert p.shape == (60, terms)
    assert q.shape == (80, terms)
    torch.testing.assert_close(p @ q.T, matrix, rtol=1e-4, atol=0)


@pytest.mark.parametrize("tolerance", [0.2, 0.05, 0.01])
def test_damped_products_of_eigenvalues_are_near_a_sum_of_few(tolerance: float) -> None:
    rows, columns = torch.logspace(-4, 2, 150, dtype=torch.float64), torch.logspace(-5, 1, 200, dtype=torch.float64)
    matrix = 0.1 / (torch.outer(rows, columns) + 0.1)  # from 1e-4 to 1
    found = separable(matrix, tolerance)
    assert found is not None
    near = found[0] @ found[1].T
    assert near.min() > 0
    assert (near / matrix - 1).square().mean().sqrt() <= tolerance
    fewer = separable(matrix, 2 * tolerance)
    assert fewer is not None
    assert fewer[0].shape[1] <= found[0].shape[1]


def test_the_first_rank_is_the_weighted_least_squares_fit() -> None:
    matrix = positive(18, 25, 2) * (1 + 0.1 * torch.rand(18, 25, generator=torch.Generator().manual_seed(1)).double())

    def errors(x: np.ndarray) -> np.ndarray:
        return (np.outer(x[:18], x[18:]) / matrix.numpy() - 1).ravel()

    best = least_squares(errors, np.ones(43), xtol=1e-14, ftol=1e-14, gtol=1e-14)
    found = separable(matrix, 10.0)
    assert found is not None
    ours = ((found[0] @ found[1].T) / matrix - 1).square().sum()
    assert float(ours) == pytest.approx(2 * best.cost, rel=1e-6)


def test_noise_has_no_such_sum_and_small_matrices_have_no_use_for_one() -> None:
    noise = torch.rand(60, 80, generator=torch.Generator().manual_seed(0)).double() + 1e-3
    assert separable(noise, 0.05) is None
    assert separable(positive(6, 9, 1), 0.05) is None
    assert separable(positive(60, 80, 1), 0.0) is None


def fitted() -> tuple[EKFAC, torch.nn.Module]:
    model = mlp(60, 24, 3)
    x = torch.randn(50, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ekfac = EKFAC()
    ekfac.add(model, [(x, torch.zeros(50, dtype=torch.long))], fisher="logit")
    return ekfac, model


def test_a_metric_with_a_tolerance_is_within_it_and_is_one_metric_throughout() -> None:
    ekfac, model = fitted()
    blocks = find_blocks(model)
    exact, near = Metric(ekfac, blocks, 0.05), Metric(ekfac, blocks, 0.05, tolerance=0.2, near=blocks)
    name = next(iter(blocks))
    terms = near.blocks[name].terms
    assert terms is not None
    assert exact.blocks[name].terms is None
    torch.testing.assert_close(near.blocks[name].scale, terms[0] @ terms[1].T)
    ratio = near.blocks[name].scale / exact.blocks[name].scale
    assert (ratio - 1).square().mean().sqrt() <= 0.2
    vector = {name: torch.randn(*blocks[name].shape, dtype=torch.float64)}
    left, right = near.blocks[name].outputs_basis, near.blocks[name].inputs_basis
    by_terms = sum(
        left @ torch.diag(p) @ left.T @ vector[name] @ right @ torch.diag(q) @ right.T
        for p, q in zip(terms[0].T, terms[1].T, strict=True)
    )
    torch.testing.assert_close(near.precondition(vector)[name], by_terms)
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        Metric(ekfac, blocks, 0.05, tolerance=-1.0)
