"""Symmetric operators on the matrices of one block: functions of its Fisher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["DiagonalOperator", "Operator", "ThinOperator"]


class Operator(Protocol):
    """A symmetric linear map of ``[…, rows, columns]`` matrices."""

    def __call__(self, matrix: Tensor) -> Tensor:
        """Return the image of a matrix, or of each of a batch."""


@dataclass(frozen=True)
class ThinOperator:
    """V ↦ U_S[ gain ∘ (U_SᵀVU) ]Uᵀ + RV: three products with ``[rows, columns]`` a matrix, thin but for R.

    Attributes:
        inputs_basis: U, ``[columns, r]``.
        outputs_basis: U_S, ``[rows, rows]``.
        gain: ``[rows, r]``.
        rest: R, symmetric ``[rows, rows]``; None is 0.
    """

    inputs_basis: Tensor
    outputs_basis: Tensor
    gain: Tensor
    rest: Tensor | None

    def __call__(self, matrix: Tensor) -> Tensor:
        """Return the image of ``[…, rows, columns]``."""
        along = self.outputs_basis @ (self.gain * (self.outputs_basis.T @ (matrix @ self.inputs_basis)))
        if self.rest is None:
            return along @ self.inputs_basis.T
        image = self.rest @ matrix
        if matrix.ndim == 2:
            return image.addmm_(along, self.inputs_basis.T)
        return image.add_(along @ self.inputs_basis.T)


@dataclass(frozen=True)
class DiagonalOperator:
    """V ↦ scale ∘ V.

    Attributes:
        scale: ``[rows, columns]``.
    """

    scale: Tensor

    def __call__(self, matrix: Tensor) -> Tensor:
        """Return the image of ``[…, rows, columns]``."""
        return self.scale * matrix
