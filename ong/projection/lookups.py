"""M stored gradients of one embedding, kept as the rows that were looked up and what reached them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.projection.rows import size

__all__ = ["LookupRows"]


@dataclass(frozen=True)
class LookupRows:
    """G_m = Σ_t e(index_mt) a_mtᵀ, e(i) the i-th unit vector.

    Attributes:
        inputs: a, ``[M, T, columns]``.
        indices: ``[M, T]``, the row that each a is added to.
        height: rows of each gradient.
    """

    inputs: Tensor
    indices: Tensor
    height: int

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.height, self.inputs.shape[2]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return size(self.inputs, self.indices)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.inputs

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩ = Σ_t a_mtᵀ V[index_mt]."""
        if matrix.ndim == 3:
            return torch.stack([self.dot(v) for v in matrix])
        return (matrix[self.indices] * self.inputs).flatten(1).sum(1)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m."""
        scaled = self.inputs * coefficients.reshape(-1, 1, 1)
        return self.inputs.new_zeros(self.shape).index_add_(0, self.indices.flatten(), scaled.flatten(0, 1))

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all gradients, ``[M, rows, stop − start]``."""
        rows = self.indices + self.height * torch.arange(len(self), device=self.indices.device)[:, None]
        found = self.inputs.new_zeros(len(self) * self.height, stop - start)
        found.index_add_(0, rows.flatten(), self.inputs[:, :, start:stop].flatten(0, 1))
        return found.reshape(len(self), self.height, stop - start)

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen gradients, ``[len(indices), rows, columns]``."""
        return self.select(indices).columns(0, self.shape[1])

    def select(self, indices: Tensor) -> LookupRows:
        """Return the chosen rows, of the same kind."""
        return LookupRows(self.inputs[indices], self.indices[indices], self.height)

    def grown(self, rows: int, columns: int) -> LookupRows:
        """Return the rows of an embedding that has grown, zero on what is new."""
        return LookupRows(F.pad(self.inputs, (0, columns - self.shape[1])), self.indices, rows)

    def joined(self, other: LookupRows) -> LookupRows:
        """Return these rows with others below."""
        most = max(self.indices.shape[1], other.indices.shape[1])
        mine, its = (
            (F.pad(part.inputs, (0, 0, 0, more)), F.pad(part.indices, (0, more)))
            for part in (self, other)
            for more in [most - part.indices.shape[1]]
        )
        return LookupRows(torch.cat([mine[0], its[0]]), torch.cat([mine[1], its[1]]), self.height)

    def compact(self) -> tuple[LookupRows, Tensor]:
        """Return the gradients on the rows that any of them looks up, and which rows these are."""
        used, indices = torch.unique(self.indices, return_inverse=True)
        return replace(self, indices=indices, height=len(used)), used

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "lookups", "inputs": self.inputs, "indices": self.indices, "height": self.height}
