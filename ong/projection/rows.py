"""M stored gradients of one block: as factors, dense, or preconditioned by an old task's metric.

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

from ong.curvature import BlockMetric, Factors
from ong.projection.layout import ByUnit, Layout

__all__ = [
    "DenseRows",
    "FactoredRows",
    "NaturalRows",
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
        """Memory held; :attr:`layout` takes as much again while steps are taken."""
        return _size(self.inputs, self.outputs)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.inputs

    @cached_property
    def layout(self) -> ByUnit | Layout:
        """The factors once more, as a training step wants them."""
        return ByUnit.of(self.inputs, self.outputs) or Layout(self.inputs, self.outputs)

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩ = Σ_t δ_mtᵀ V a_mt: one matrix product, then a sum."""
        if matrix.ndim == 2:
            return self.layout.dot(matrix)
        a, d = self.inputs.flatten(0, 1), self.outputs.flatten(0, 1)
        moved = (a @ matrix.flatten(0, 1).T).reshape(len(a), len(matrix), -1)  # [M·T, B, rows]
        return torch.einsum("kbr,kr->bk", moved, d).reshape(len(matrix), len(self), -1).sum(2)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m = Dᵀ diag(c) A."""
        return self.layout.combine(coefficients)

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

    def rotated(self, metric: BlockMetric) -> FactoredRows:
        """Return U_Sᵀ G_m U_A, still as factors."""
        return FactoredRows(self.inputs @ metric.inputs_basis, self.outputs @ metric.outputs_basis)

    def scaled(self, terms: tuple[Tensor, Tensor]) -> FactoredRows:
        """Return PQᵀ ∘ G_m, as factors of T · R positions: Σ_r (p_r∘δ)(q_r∘a)ᵀ."""
        p, q = (factor.T[:, None].to(self.inputs) for factor in terms)  # [R, 1, rows], [R, 1, columns]
        return FactoredRows((self.inputs[:, None] * q).flatten(1, 2), (self.outputs[:, None] * p).flatten(1, 2))

    def tail(self, start: int) -> FactoredRows:
        """Return the rows from ``start`` on."""
        return FactoredRows(self.inputs[start:], self.outputs[start:])

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

    def rotated(self, metric: BlockMetric) -> DenseRows:
        """Return U_Sᵀ G_m U_A."""
        return DenseRows(metric.rotate(self.matrices))

    def tail(self, start: int) -> DenseRows:
        """Return the rows from ``start`` on."""
        return DenseRows(self.matrices[start:])

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "dense", "matrices": self.matrices}


@dataclass(frozen=True)
class NaturalRows:
    """Natural gradients λ(F+λ)⁻¹G_m in the metric of the task that left them, by ⟨F⁻¹g, v⟩ = ⟨g, F⁻¹v⟩.

    Attributes:
        rotated: the gradients in the metric's eigenbasis.
        metric: that metric.
    """

    rotated: FactoredRows | DenseRows
    metric: BlockMetric

    def __len__(self) -> int:
        return len(self.rotated)

    @property
    def shape(self) -> tuple[int, int]:
        """``(rows, columns)`` of each gradient."""
        return self.rotated.shape

    @property
    def bytes(self) -> int:
        """Memory held, bases included."""
        m = self.metric
        return self.rotated.bytes + _size(m.inputs_basis, m.outputs_basis, m.eigenvalues, m.scale)

    @property
    def like(self) -> Tensor:
        """A tensor of the rows' dtype and device."""
        return self.metric.scale

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨M⁻¹G_m, V⟩."""
        return self.rotated.dot(self.metric.scale * self.metric.rotate(matrix))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m M⁻¹G_m."""
        return self.metric.rotate_back(self.metric.scale * self.rotated.combine(coefficients))

    def dense(self, indices: Tensor) -> Tensor:
        """Return the chosen natural gradients."""
        return self.metric.rotate_back(self.metric.scale * self.rotated.dense(indices))

    def select(self, indices: Tensor) -> NaturalRows:
        """Return the chosen rows, in the same metric."""
        return NaturalRows(self.rotated.select(indices), self.metric)

    def grown(self, rows: int, columns: int) -> DenseRows:
        """Return the rows of a layer that has grown; the old metric says nothing of the new part, so they go dense."""
        return DenseRows(self.dense(torch.arange(len(self), device=self.like.device))).grown(rows, columns)

    def state_dict(self) -> dict[str, Any]:
        """Return the tensors and the kind."""
        return {"kind": "natural", "rotated": self.rotated.state_dict(), "metric": dict(vars(self.metric))}


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
    if state["kind"] == "factored":
        return FactoredRows(state["inputs"], state["outputs"])
    if state["kind"] == "dense":
        return DenseRows(state["matrices"])
    if state["kind"] == "natural":
        rotated = rows_from_state(state["rotated"])
        assert isinstance(rotated, FactoredRows | DenseRows)
        return NaturalRows(rotated, BlockMetric(**state["metric"]))
    return StackedRows([rows_from_state(part) for part in state["parts"]])
