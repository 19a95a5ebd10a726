"""A matrix of positive numbers as a sum of few products of a row's and a column's number."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["separable"]

_SWEEPS = 10
_SAVING = 8  # how many times fewer numbers than the matrix's the terms must have
_MOST_TERMS = 12  # more would gain little, and looking for them takes R² · rows · columns a sweep


def separable(matrix: Tensor, tolerance: float) -> tuple[Tensor, Tensor] | None:
    """Return P and Q with D ≈ PQᵀ > 0, of the lowest rank R that is near enough, or None where there is none.

    Near is in relative terms, so that small entries count as much as large ones, and on average (a few entries may be
    off by more):

        mean_ij ((PQᵀ)_ij / D_ij − 1)² ≤ tolerance².

    It is sought by alternating least squares with weights 1/D². For D = λ/(Λ+λ) with the eigenvalues of a network's
    layer the singular values fall fast: products λ_A λ_S would make D a Cauchy matrix.

    Args:
        matrix: D > 0, ``[rows, columns]``.
        tolerance: of the relative error's root mean square; 0 asks for nothing.

    Returns:
        P ``[rows, R]`` and Q ``[columns, R]``, float64, with R (rows + columns) at most an eighth of rows · columns;
        or None. R is at most 12.
    """
    rows, columns = matrix.shape
    most = min(rows * columns // (_SAVING * (rows + columns)), _MOST_TERMS)
    if not tolerance > 0 or most < 1:
        return None
    exact = matrix.double()
    weights = exact.square().reciprocal()
    targets = exact.reciprocal()  # weights · D
    # the start: singular vectors of D/base, base the best product for the logarithms
    logs = exact.log()
    left, right = logs.mean(1).exp(), (logs.mean(0) - logs.mean()).exp()
    u, s, vh = torch.linalg.svd(exact / torch.outer(left, right), full_matrices=False)
    for rank in range(1, min(most, len(s)) + 1):
        p, q = left[:, None] * u[:, :rank] * s[:rank], right[:, None] * vh[:rank].T
        for _ in range(_SWEEPS):
            p = _weighted(weights, targets, q)
            q = _weighted(weights.T, targets.T, p)
        ratio = (p @ q.T) * targets
        if ratio.min() > 0 and (ratio - 1).square().mean() <= tolerance**2:
            return p, q
    return None


def _weighted(weights: Tensor, targets: Tensor, factor: Tensor) -> Tensor:
    """Return argmin_P Σ_ij w_ij (d_ij − p_iᵀq_j)², by the normal equations of each row, for t_ij = w_ij d_ij."""
    rank = factor.shape[1]
    products = (factor[:, :, None] * factor[:, None, :]).flatten(1)
    normal = (weights @ products).reshape(-1, rank, rank)
    solution: Tensor = torch.linalg.solve(normal, targets @ factor)
    return solution
