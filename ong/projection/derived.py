"""Gradients of one block made of other ones: combinations of them, their images, several kinds below each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ong.curvature import DiagonalBlock, EigenBlock, Operator
from ong.projection.lookups import LookupRows
from ong.projection.patches import PatchRows
from ong.projection.rows import DenseRows, FactoredRows, Rows, size

__all__ = ["CombinedRows", "ImageRows", "StackedRows", "rows_from_state"]


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
        return self.rows.bytes + size(self.weights)

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

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all combinations."""
        return torch.einsum("mk,mrc->krc", self.weights, self.rows.columns(start, stop))

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
        return self.rows.bytes + size(*(t for t in self.fisher.state_dict().values() if isinstance(t, Tensor)))

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

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of all images, which takes all columns of the rows."""
        return self.operator(self.rows.columns(0, self.shape[1]))[:, :, start:stop]

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

    def columns(self, start: int, stop: int) -> Tensor:
        """Return the columns from ``start`` to ``stop`` of the gradients of all parts."""
        return torch.cat([part.columns(start, stop) for part in self.parts])

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


def rows_from_state(state: dict[str, Any]) -> Rows:
    """Rebuild rows from their ``state_dict``."""
    kind = state["kind"]
    if kind == "factored":
        return FactoredRows(state["inputs"], state["outputs"])
    if kind == "dense":
        return DenseRows(state["matrices"])
    if kind == "patches":
        return PatchRows.from_state_dict(state)
    if kind == "lookups":
        return LookupRows(state["inputs"], state["indices"], state["height"])
    if kind == "combined":
        return CombinedRows(rows_from_state(state["rows"]), state["weights"])
    if kind == "image":
        values = state["fisher"]
        fisher = EigenBlock(**values) if "outputs_basis" in values else DiagonalBlock(**values)
        return ImageRows(rows_from_state(state["rows"]), fisher, state["damping"])
    return StackedRows([rows_from_state(part) for part in state["parts"]])
