"""Directions of past tasks over a whole network, kept in factors."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor

from ong.curvature import Block, Metric, Vector, double
from ong.projection.derived import StackedRows, rows_from_state
from ong.projection.images import gram_of, image_of
from ong.projection.lookups import LookupRows
from ong.projection.patches import PatchRows
from ong.projection.rows import DenseRows, FactoredRows, Rows, smaller_in_factors
from ong.projection.slabs import gram_from
from ong.waiting import waiting

__all__ = ["DirectionMemory"]


class DirectionMemory:
    """G = [g_1 … g_M], vectors over a network's parameters, with the products a projection needs.

    For a 784-100-100-10 net a gradient in factors is 1,197 numbers where the vector has 89,610.

    Attributes:
        rows: the M gradients of each block; a block that a direction does not touch holds zeros for it.
        count: M.
    """

    def __init__(self, rows: Mapping[str, Rows] | None = None) -> None:
        """Start with the rows given, or empty."""
        self.rows: dict[str, Rows] = dict(rows or {})
        counts = {len(r) for r in self.rows.values()}
        if len(counts) > 1:
            raise ValueError(f"all blocks must hold the same number of directions, got {sorted(counts)}")
        self.count = counts.pop() if counts else 0
        self._gram = torch.zeros(0, 0, dtype=torch.float64)

    def __len__(self) -> int:
        return self.count

    @property
    def bytes(self) -> int:
        """Memory of the stored directions."""
        return sum(rows.bytes for rows in self.rows.values())

    def extend(self, rows: Mapping[str, Rows], blocks: Mapping[str, Block]) -> None:
        """Append directions; blocks that either side lacks, and what a layer has gained since, are zero there.

        Args:
            rows: the new directions of each block, the same number in all.
            blocks: the model's blocks as they are now.
        """
        added = DirectionMemory(rows)
        self.fit_to(blocks)
        added.fit_to(blocks)
        names = [*blocks, *(name for name in self.rows if name not in blocks)]
        self.rows = {
            name: _stack(self.rows.get(name), added.rows.get(name), self.count, added.count)
            for name in names
            if name in self.rows or name in added.rows
        }
        self.count += added.count

    def fit_to(self, blocks: Mapping[str, Block]) -> None:
        """Grow the rows with zeros to the model's present shapes; rows of blocks it lacks (frozen layers) wait.

        Raises:
            ValueError: a block that has become smaller.
        """
        for name, rows in self.rows.items():
            if name in blocks and any(new < old for new, old in zip(blocks[name].shape, rows.shape, strict=True)):
                raise ValueError(
                    f"layer '{name}' had {rows.shape[0]} × {rows.shape[1]} trainable parameters when directions were "
                    f"stored and has {blocks[name].shape[0]} × {blocks[name].shape[1]} now; freeze a layer as a whole"
                )
        self.rows = {
            name: rows.grown(*blocks[name].shape) if name in blocks and rows.shape != blocks[name].shape else rows
            for name, rows in self.rows.items()
        }

    def restricted(self, names: Container[str]) -> DirectionMemory:
        """Return the parts of all directions that lie in some blocks; nothing is copied."""
        return DirectionMemory({name: rows for name, rows in self.rows.items() if name in names})

    def select(self, indices: Tensor) -> DirectionMemory:
        """Return a memory of some of the directions, in the order they were stored; factors stay factors."""
        kept = indices.sort().values
        if not len(kept):
            return DirectionMemory()
        chosen = DirectionMemory({name: rows.select(kept) for name, rows in self.rows.items()})
        if len(self._gram) == self.count:
            chosen._gram = self._gram[kept][:, kept]
        return chosen

    def dot(self, vector: Mapping[str, Tensor]) -> Tensor:
        """Return Gᵀv, ``[M]``, for v a matrix a block."""
        return torch.stack([rows.dot(vector[name]) for name, rows in self.rows.items()]).sum(0)

    def combine(self, coefficients: Tensor) -> Vector:
        """Return G c for c ``[M]``; blocks that no direction touches are absent."""
        return {name: rows.combine(coefficients) for name, rows in self.rows.items()}

    def gram(self) -> Tensor:
        """Return GᵀG, ``[M, M]`` float64; what an earlier call worked out is kept (growing adds only zeros to it)."""
        known = len(self._gram)
        if known < self.count:
            total = double(_like(self.rows).new_zeros(self.count, self.count))
            for rows in waiting(self.rows.values(), "  Gram"):
                total[known:] += gram_from(rows, known)
            total[:known, known:] = total[known:, :known].T
            total[:known, :known] = self._gram
            total[known:, known:] = (total[known:, known:] + total[known:, known:].T) / 2
            self._gram = total
        return self._gram

    def gram_in(self, metric: Metric) -> Tensor:
        """Return GᵀM⁻¹G, ``[M, M]`` float64."""
        return gram_of(image_of(rows, metric.inverse[name]) for name, rows in self.rows.items())

    def state_dict(self) -> dict[str, Any]:
        """Return the rows of each block and the Gram worked out so far."""
        return {"rows": {name: rows.state_dict() for name, rows in self.rows.items()}, "gram": self._gram}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> DirectionMemory:
        """Rebuild a memory from its :meth:`state_dict`."""
        memory = cls({name: rows_from_state(rows) for name, rows in state["rows"].items()})
        memory._gram = state["gram"]
        return memory


def _like(rows: Mapping[str, Rows]) -> Tensor:
    return next(iter(rows.values())).like if rows else torch.zeros(0)


def _zeros(count: int, like: Rows) -> FactoredRows | DenseRows | PatchRows | LookupRows:
    rows, columns = like.shape
    if isinstance(like, DenseRows):
        return DenseRows(like.like.new_zeros(count, rows, columns))
    if isinstance(like, LookupRows):
        return LookupRows(like.like.new_zeros(count, 1, columns), like.indices.new_zeros(count, 1), rows)
    if isinstance(like, PatchRows):
        inputs, outputs = (t.new_zeros(count, *t.shape[1:]) for t in (like.inputs, like.outputs))
        return PatchRows(inputs, outputs, like.convolution, like.bias)
    return FactoredRows(like.like.new_zeros(count, 1, columns), like.like.new_zeros(count, 1, rows))


def _stack(old: Rows | None, new: Rows | None, old_count: int, new_count: int) -> Rows:
    """Put rows below each other, as one tensor where both are of one form."""
    if old is None:
        assert new is not None
        old = _zeros(old_count, new)
    *parts, last = old.parts if isinstance(old, StackedRows) else [old]
    if new is None:
        new = _zeros(new_count, last)
    if not len(old):
        return new
    joined = _joined(last, new)
    parts = [*parts, last, new] if joined is None else [*parts, joined]
    return StackedRows(parts) if len(parts) > 1 else parts[0]


def _joined(old: Rows, new: Rows) -> Rows | None:
    """Return two sets of gradients as one; None where one form would hold one of them in more numbers, or not at all.

    Numbers stay what they are, as a sum of those that float16 holds is none that it holds.
    """
    if isinstance(old, PatchRows) and isinstance(new, PatchRows) and old.joins(new):
        return old.joined(new)
    if isinstance(old, LookupRows) and isinstance(new, LookupRows):
        return old.joined(new)
    if isinstance(old, DenseRows) and isinstance(new, DenseRows):
        return DenseRows(torch.cat([old.matrices, new.matrices]))
    if isinstance(old, FactoredRows) and isinstance(new, FactoredRows):
        positions = max(old.positions, new.positions)
        if old.positions == new.positions or smaller_in_factors(positions, *old.shape):
            old, new = old.padded(positions), new.padded(positions)
            return FactoredRows(torch.cat([old.inputs, new.inputs]), torch.cat([old.outputs, new.outputs]))
    return None
