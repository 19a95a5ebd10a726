"""M stored gradients of one block: as factors, dense, as combinations of others, or times an operator.

Classes with the same operations, for G = [G_1 … G_M], each G_m a ``[rows, columns]`` matrix:

* ``dot(V)`` — Gᵀv: the M inner products ⟨G_m, V⟩, for one V or a batch ``[B, rows, columns]`` → ``[B, M]``;
* ``combine(c)`` — G c = Σ_m c_m G_m;
* ``dense(indices)`` — some of the G_m themselves, ``[len(indices), rows, columns]``;
* ``select(indices)`` — fewer rows of the same kind, the indices ascending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature import DiagonalBlock, EigenBlock, Factors, Operator

__all__ = [
    "CombinedRows",
    "DenseRows",
    "FactoredRows",
    "ImageRows",
    "Rows",
    "StackedRows",
    "rows_from_factors",
    "rows_from_state",
    "smaller_in_factors",
]


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

    def select(self, indices: Tensor) -> Rows:
        """Return the chosen rows, of the same kind."""

    def grown(self, rows: int, columns: int) -> Rows:
        """Return the rows of a layer that has grown, zero on what is new."""

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""


def _size(*tensors: Tensor) -> int:
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
    def bytes(self) -> int:
        """Memory held."""
        return _size(self.inputs, self.outputs)

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

    def select(self, indices: Tensor) -> FactoredRows:
        """Return the chosen rows, still as factors."""
        return FactoredRows(self.inputs[indices], self.outputs[indices])

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
        return _size(self.matrices)

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

    def select(self, indices: Tensor) -> DenseRows:
        """Return the chosen rows."""
        return DenseRows(self.matrices[indices])

    def grown(self, rows: int, columns: int) -> DenseRows:
        """Return the rows of a layer that has grown, zero on what is new."""
        return DenseRows(F.pad(self.matrices, (0, columns - self.shape[1], 0, rows - self.shape[0])))

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "dense", "matrices": self.matrices}


@dataclass(frozen=True)
class CombinedRows:
    """G_k = Σ_m weights_mk R_m: combinations of other rows R, such as principal directions.

    Attributes:
        rows: R.
        weights: ``[M of R, M]``.
    """

    rows: Rows
    weights: Tensor

    def __len__(self) -> int:
        return self.weights.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.rows.shape

    @property
    def bytes(self) -> int:
        """Memory held."""
        return self.rows.bytes + _size(self.weights)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.rows.like

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_k, V⟩."""
        return self.rows.dot(matrix) @ self.weights

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_k c_k G_k."""
        return self.rows.combine(self.weights @ coefficients)

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen combinations."""
        return torch.stack([self.rows.combine(self.weights[:, k]) for k in indices.tolist()])

    def select(self, indices: Tensor) -> CombinedRows:
        """Return the chosen combinations."""
        return CombinedRows(self.rows, self.weights[:, indices])

    def grown(self, rows: int, columns: int) -> CombinedRows:
        """Return the rows of a layer that has grown, zero on what is new."""
        return CombinedRows(self.rows.grown(rows, columns), self.weights)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "combined", "rows": self.rows.state_dict(), "weights": self.weights}


@dataclass(frozen=True)
class ImageRows:
    """K G_m for a symmetric operator K = f(F) of an old Fisher, by ⟨Kg, v⟩ = ⟨g, Kv⟩.

    Natural gradients λ(F+λ)⁻¹G_m in the metric of the task that left them, for one.

    Attributes:
        rows: G.
        fisher: F.
        damping: λ of K = λ(F+λ)⁻¹; None is K = F.
    """

    rows: Rows
    fisher: EigenBlock | DiagonalBlock
    damping: float | None

    def __post_init__(self) -> None:
        damping = self.damping
        function = (lambda x: x) if damping is None else (lambda x: damping / (x + damping))
        object.__setattr__(self, "_operator", self.fisher.operator(function))

    @property
    def operator(self) -> Operator:
        """K."""
        return self._operator  # type: ignore[attr-defined, no-any-return]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.rows.shape

    @property
    def bytes(self) -> int:
        """Memory held, the Fisher included."""
        return self.rows.bytes + _size(*(t for t in self.fisher.state_dict().values() if isinstance(t, Tensor)))

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.rows.like

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨K G_m, V⟩."""
        return self.rows.dot(self.operator(matrix))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m K G_m."""
        return self.operator(self.rows.combine(coefficients))

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen images."""
        return self.operator(self.rows.dense(indices))

    def select(self, indices: Tensor) -> ImageRows:
        """Return the chosen rows, under the same operator."""
        return ImageRows(self.rows.select(indices), self.fisher, self.damping)

    def grown(self, rows: int, columns: int) -> ImageRows:
        """Return the rows of a layer that has grown, zero on what is new."""
        return ImageRows(self.rows.grown(rows, columns), self.fisher.grown(rows, columns), self.damping)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        fisher = self.fisher.state_dict()
        return {"kind": "image", "rows": self.rows.state_dict(), "fisher": fisher, "damping": self.damping}


@dataclass(frozen=True)
class StackedRows:
    """Rows of several kinds one after the other."""

    parts: Sequence[Rows]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.parts[0].shape

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(part.bytes for part in self.parts)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.parts[0].like

    def dot(self, matrix: Tensor) -> Tensor:
        """Return the inner products of all parts."""
        return torch.cat([part.dot(matrix) for part in self.parts], dim=-1)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m over all parts."""
        chunks = torch.split(coefficients, [len(part) for part in self.parts])
        return torch.stack([part.combine(c) for part, c in zip(self.parts, chunks, strict=True)]).sum(0)

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen gradients, in the order of the indices."""
        found, start = [], 0
        for part in self.parts:
            here = (indices >= start) & (indices < start + len(part))
            if here.any():
                found.append((torch.nonzero(here)[:, 0], part.dense(indices[here] - start)))
            start += len(part)
        order = torch.cat([places for places, _ in found]).argsort()
        return torch.cat([matrices for _, matrices in found])[order]

    def select(self, indices: Tensor) -> Rows:
        """Return the chosen rows; parts of which nothing is left are gone."""
        parts, start = [], 0
        for part in self.parts:
            here = indices[(indices >= start) & (indices < start + len(part))] - start
            if len(here) or not len(indices):
                parts.append(part.select(here))
            start += len(part)
        return StackedRows(parts) if len(parts) > 1 else parts[0]

    def grown(self, rows: int, columns: int) -> StackedRows:
        """Return the rows of a layer that has grown."""
        grown = (rows, columns)
        return StackedRows([part if part.shape == grown else part.grown(*grown) for part in self.parts])

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the parts."""
        return {"kind": "stacked", "parts": [part.state_dict() for part in self.parts]}


def smaller_in_factors(positions: int, rows: int, columns: int) -> bool:
    """Return whether factors of a gradient ``[rows, columns]`` are fewer numbers than itself."""
    return positions * (rows + columns) <= rows * columns


def rows_from_factors(factors: Factors) -> FactoredRows | DenseRows:
    """Keep the factors, or the gradients themselves where those are smaller."""
    factored = FactoredRows(factors.inputs, factors.outputs)
    if smaller_in_factors(factors.inputs.shape[1], *factored.shape):
        return factored
    return DenseRows(factored.dense(torch.arange(len(factored), device=factors.inputs.device)))


def rows_from_state(state: dict[str, Any]) -> Rows:
    """Rebuild rows from their ``state_dict``."""
    kind = state["kind"]
    if kind == "factored":
        return FactoredRows(state["inputs"], state["outputs"])
    if kind == "dense":
        return DenseRows(state["matrices"])
    if kind == "combined":
        return CombinedRows(rows_from_state(state["rows"]), state["weights"])
    if kind == "image":
        values = state["fisher"]
        fisher = EigenBlock(**values) if "outputs_basis" in values else DiagonalBlock(**values)
        return ImageRows(rows_from_state(state["rows"]), fisher, state["damping"])
    return StackedRows([rows_from_state(part) for part in state["parts"]])
