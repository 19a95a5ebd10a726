"""Squares of per-example gradients, in a basis or as they are."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ong.curvature.factors import Factors, Lookups
from ong.curvature.precision import double

__all__ = ["gradient_squares", "rotated_squares"]

_CHUNK = 2**25  # numbers of one intermediate


def rotated_squares(factors: Factors, inputs_basis: Tensor, outputs_basis: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ_n (U_SᵀG_nU)^{∘2}, ``[rows, r]``, and its rows' sums over all columns, Σ_n ‖(U_SᵀG_n)_i‖²; float64.

    Positions are summed *before* squaring. With d = U_Sᵀδ and α = Uᵀa, of many positions

        (U_SᵀG_nU)_ij = Σ_t d_nti α_ntj,    ‖(U_SᵀG_n)_i‖² = Σ_tt' d_nti d_nt'i (a_ntᵀa_nt'),

    either by these, or from U_SᵀG_n multiplied out, whichever takes fewer operations.

    Args:
        factors: of N examples.
        inputs_basis: U, orthonormal ``[columns, r]``.
        outputs_basis: U_S, ``[rows, rows]``.
    """
    d = factors.outputs @ outputs_basis
    a = factors.inputs
    if a.shape[1] == 1:
        along, squares = a[:, 0] @ inputs_basis, d[:, 0].square()
        return double(squares.T @ along.square()), double(squares.T @ a[:, 0].square().sum(1))
    (_, positions, rows), (columns, rank) = d.shape, inputs_basis.shape
    total = double(d.new_zeros(rows, rank))
    sums = total.new_zeros(rows)
    whole = rank == columns  # then the sums are those over the basis
    out = rows * columns * (positions + rank)
    apart = positions * rank * (columns + rows) + (0 if whole else positions**2 * (columns + rows))
    if out <= apart:
        for some_d, some_a in _chunks(d, a, rows * columns):
            gradients = some_d.mT @ some_a
            sums += double(gradients.square().sum((0, 2)))
            total += double((gradients @ inputs_basis).square().sum(0))
        return total, sums
    for some_d, some_a in _chunks(d, a, positions * (rank + rows + positions) + rows * rank):
        total += double((some_d.mT @ (some_a @ inputs_basis)).square().sum(0))
        if not whole:
            sums += double(((some_a @ some_a.mT @ some_d) * some_d).sum((0, 1)))
    return total, total.sum(1) if whole else sums


def gradient_squares(factors: Factors) -> Tensor:
    """Return Σ_n G_n^{∘2}, ``[rows, columns]`` float64: positions are summed *before* squaring."""
    if isinstance(factors, Lookups):
        return factors.squares()
    a, d = factors.inputs, factors.outputs
    if a.shape[1] == 1:
        return double(d[:, 0].square().T @ a[:, 0].square())
    total = double(a.new_zeros(d.shape[2], a.shape[2]))
    for some_d, some_a in _chunks(d, a, total.numel()):
        total += double((some_d.mT @ some_a).square().sum(0))
    return total


def _chunks(d: Tensor, a: Tensor, each: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield some examples' factors at a time, as many as have ``each`` numbers within the limit."""
    step = max(1, _CHUNK // max(1, each))
    yield from zip(torch.split(d, step), torch.split(a, step), strict=True)
