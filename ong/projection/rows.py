"""M stored gradients of one block: as factors, or dense; :mod:`ong.projection.derived` has what is made of them.

Classes with the same operations, for G = [G_1 … G_M], each G_m a ``[rows, columns]`` matrix:

* ``dot(V)`` — Gᵀv: the M inner products ⟨G_m, V⟩, for one V or a batch ``[B, rows, columns]`` → ``[B, M]``;
* ``combine(c)`` — G c = Σ_m c_m G_m;
* ``dense(indices)`` — some of the G_m themselves, ``[len(indices), rows, columns]``;
* ``columns(start, stop)`` — some columns of all G_m, ``[M, rows, stop − start]``;
* ``select(indices)`` — fewer rows of the same kind, the indices ascending.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature import Factors, holds

__all__ = ["DenseRows", "FactoredRows", "Rows", "rows_from_factors", "size", "smaller_in_factors"]


class Rows(Protocol):
    """M matrices of one block that can be multiplied with."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""

    @property
    def bytes(self) -> int:
        """Memory held."""

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩."""

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m."""

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen gradients."""

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all gradients."""

    def select(self, indices: Tensor) -> Rows:
        """Return the chosen rows, of the same kind."""

    def grown(self, rows: int, columns: int) -> Rows:
        """Return the rows of a layer that has grown, zero on what is new."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""


def size(*tensors: Tensor) -> int:
    """Return the bytes of tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


@dataclass(frozen=True)
class FactoredRows:
    """G_m = Σ_t outputs_mt inputs_mtᵀ.

    Attributes:
        inputs: a, ``[M, T, columns]``.
        outputs: δ, ``[M, T, rows]``.
    """

    inputs: Tensor
    outputs: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.outputs.shape[2], self.inputs.shape[2]

    @property
    def positions(self) -> int:
        """T."""
        return self.inputs.shape[1]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return size(self.inputs, self.outputs)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.inputs

    @cached_property
    def _flat(self) -> tuple[Tensor, Tensor]:
        """A and δ of all positions below each other."""
        return self.inputs.flatten(0, 1), self.outputs.flatten(0, 1)

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩ = Σ_t δ_mtᵀ V a_mt: one matrix product, then a sum."""
        a, d = self._flat
        if matrix.ndim == 2:
            products = (a @ matrix.T).mul_(d).sum(1)
            return products if self.inputs.shape[1] == 1 else products.reshape(len(self), -1).sum(1)
        moved = (a @ matrix.flatten(0, 1).T).reshape(len(a), len(matrix), -1)  # [M·T, B, rows]
        return torch.einsum("kbr,kr->bk", moved, d).reshape(len(matrix), len(self), -1).sum(2)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m = Dᵀ diag(c) A."""
        a, d = self._flat
        repeated = coefficients.repeat_interleave(self.inputs.shape[1]) if self.inputs.shape[1] != 1 else coefficients
        return (d * repeated.reshape(-1, 1)).T @ a

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen gradients, ``[len(indices), rows, columns]``."""
        return torch.einsum("mtr,mtc->mrc", self.outputs[indices], self.inputs[indices])

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all gradients, ``[M, rows, stop − start]``."""
        return self.outputs.mT @ self.inputs[:, :, start:stop]

    def select(self, indices: Tensor) -> FactoredRows:
        """Return the chosen rows, still as factors."""
        return FactoredRows(self.inputs[indices], self.outputs[indices])

    def left(self, matrix: Tensor) -> FactoredRows:
        """Return R G_m for R ``[…, rows]``."""
        return FactoredRows(self.inputs, self.outputs @ matrix.T)

    def right(self, matrix: Tensor) -> FactoredRows:
        """Return G_m U for U ``[columns, …]``."""
        return FactoredRows(self.inputs @ matrix, self.outputs)

    def grown(self, rows: int, columns: int) -> FactoredRows:
        """Return the rows of a layer that has grown, zero on what is new."""
        return FactoredRows(
            F.pad(self.inputs, (0, columns - self.shape[1])), F.pad(self.outputs, (0, rows - self.shape[0]))
        )

    def padded(self, positions: int) -> FactoredRows:
        """Return the rows with as many positions, zero in those they lack."""
        more = (0, 0, 0, positions - self.inputs.shape[1])
        return FactoredRows(F.pad(self.inputs, more), F.pad(self.outputs, more))

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "factored", "inputs": self.inputs, "outputs": self.outputs}


@dataclass(frozen=True)
class DenseRows:
    """G_m kept as matrices, for layers whose factors would be larger.

    Attributes:
        matrices: ``[M, rows, columns]``.
    """

    matrices: Tensor

    def __len__(self) -> int:
        return len(self.matrices)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.matrices.shape[1], self.matrices.shape[2]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return size(self.matrices)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.matrices

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩."""
        return matrix.flatten(-2) @ self.matrices.flatten(1).T

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m."""
        return (coefficients @ self.matrices.flatten(1)).reshape(self.shape)

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen gradients."""
        return self.matrices[indices]

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all gradients."""
        return self.matrices[:, :, start:stop]

    def select(self, indices: Tensor) -> DenseRows:
        """Return the chosen rows."""
        return DenseRows(self.matrices[indices])

    def grown(self, rows: int, columns: int) -> DenseRows:
        """Return the rows of a layer that has grown, zero on what is new."""
        return DenseRows(F.pad(self.matrices, (0, columns - self.shape[1], 0, rows - self.shape[0])))

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "dense", "matrices": self.matrices}


def smaller_in_factors(positions: int, rows: int, columns: int) -> bool:
    """Return whether factors of a gradient ``[rows, columns]`` are fewer numbers than itself."""
    return positions * (rows + columns) <= rows * columns


def rows_from_factors(factors: Factors) -> FactoredRows | DenseRows:
    """Keep the factors, but for positions that add nothing, or the gradients themselves where those are smaller."""
    factored = _without_zeros(FactoredRows(factors.inputs, factors.outputs))
    if smaller_in_factors(factored.positions, *factored.shape):
        return factored
    return DenseRows(factored.dense(torch.arange(len(factored), device=factors.inputs.device)))


def _without_zeros(rows: FactoredRows) -> FactoredRows:
    """Return the same gradients in as many positions as the example has with the most that are not zero.

    In the last block of a transformer that reads its class token, the other tokens' cotangents are zero.
    """
    present = rows.inputs.any(2) & rows.outputs.any(2)
    if holds(present.all()):
        return rows
    most = max(1, int(present.sum(1).max()))
    first = torch.sort(present.byte(), stable=True, dim=1, descending=True).indices[:, :most, None]
    return FactoredRows(rows.inputs.take_along_dim(first, 1), rows.outputs.take_along_dim(first, 1))
