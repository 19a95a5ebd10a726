"""Gradients multiplied out a few columns at a time, so that no intermediate is large."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ong.curvature import double
from ong.projection.derived import CombinedRows, ImageRows, StackedRows
from ong.projection.lookups import LookupRows
from ong.projection.rows import DenseRows, FactoredRows, Rows

__all__ = ["by_direction", "chunks", "expanded", "gram_from", "slabs"]

_NUMBERS = 2**22  # of one intermediate


def slabs(rows: Rows) -> Iterator[tuple[int, int]]:
    """Yield where a few columns start and stop, as many as all gradients have few numbers in."""
    height, width = rows.shape
    step = max(1, _NUMBERS // max(1, len(rows) * height))
    for start in range(0, width, step):
        yield start, min(start + step, width)


def chunks(rows: Rows, start: int = 0) -> Iterator[Tensor]:
    """Indices from ``start`` on, as many at a time as keep the intermediates small."""
    count, (height, width) = len(rows), rows.shape
    step = max(1, _NUMBERS // max(height * width, count * height))
    for first in range(start, count, step):
        yield torch.arange(first, min(first + step, count), device=rows.like.device)


def gram_from(rows: Rows, start: int) -> Tensor:
    """Return GᵀG of the directions from ``start`` on with all, ``[M − start, M]`` float64.

    Gradients of one position take (AAᵀ)∘(DDᵀ), M²(rows + columns) multiplications. All others are multiplied out, some
    columns at a time: MT · rows · columns and M² · rows · columns, where products of factors with all gradients are
    T · M² · rows · columns. Products are summed in float64: rounding of float32 would add eigenvalues of the size of
    the rank cut (:class:`ong.projection.GramSolver`), by whose inverse a projection multiplies.
    """
    if isinstance(rows, FactoredRows) and rows.positions == 1:
        a, d = double(rows.inputs[:, 0]), double(rows.outputs[:, 0])
        return (a[start:] @ a.T) * (d[start:] @ d.T)
    if isinstance(rows, LookupRows):
        rows = rows.compact()[0]
    total = double(rows.like.new_zeros(len(rows) - start, len(rows)))
    if by_direction(rows):
        for indices in chunks(rows, start):
            total[(indices - start).to(total.device)] = double(rows.dot(rows.dense(indices)))
        return total
    for first, last in slabs(rows):
        flat = double(rows.columns(first, last)).flatten(1)
        total += flat[start:] @ flat.T
    return total


def expanded(rows: Rows) -> DenseRows:
    """Return the gradients as matrices."""
    height, width = rows.shape
    matrices = rows.like.new_empty(len(rows), height, width)
    for start, stop in slabs(rows):
        matrices[:, :, start:stop] = rows.columns(start, stop)
    return DenseRows(matrices)


def by_direction(rows: Rows) -> bool:
    """Return whether whole gradients are had for less than their columns: images, and combinations of rank-one ones."""
    if isinstance(rows, CombinedRows):
        rank_one = isinstance(rows.rows, FactoredRows) and rows.rows.positions == 1
        return rank_one or by_direction(rows.rows)
    return isinstance(rows, ImageRows) or (isinstance(rows, StackedRows) and any(map(by_direction, rows.parts)))
