"""Factored directions laid out for products with them, which is all that a training step does with directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Layout"]

_EVEN = 8  # BLAS takes a quarter longer for products of 101 columns than of 104


class Layout:
    """G_m = Σ_t δ_mt a_mtᵀ with the directions side by side.

    Rows of one coordinate each, contiguous over the directions, suit narrow products and sums over a layer's rows
    better than rows of one direction each; coordinates are filled up with zeros to a multiple of eight.

    Attributes:
        inputs: aᵀ, ``[columns, T · M]``, all directions of t = 1 first.
        outputs: δᵀ, ``[rows, T · M]``.
    """

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        """Lay out a ``[M, T, columns]`` and δ ``[M, T, rows]``."""
        self._count, self._positions, self._columns = inputs.shape
        self._even = F.pad(inputs.permute(2, 1, 0).flatten(1), (0, 0, 0, -self._columns % _EVEN)).contiguous()
        self.inputs = self._even[: self._columns]
        self.outputs = outputs.permute(2, 1, 0).flatten(1).contiguous()
        self._inputs_back, self._outputs_back = self._even.T, self.outputs.T

    def __len__(self) -> int:
        """Return T · M."""
        return self.inputs.shape[1]

    @property
    def bytes(self) -> int:
        """Memory held."""
        return sum(t.numel() * t.element_size() for t in (self._even, self.outputs))

    def _spread(self, coefficients: Tensor) -> Tensor:
        return coefficients if self._positions == 1 else coefficients.repeat(self._positions)

    def _gathered(self, products: Tensor) -> Tensor:
        found = products.sum(0)
        return found if self._positions == 1 else found.reshape(self._positions, self._count).sum(0)

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩, ``[M]``, for V ``[rows, columns]``."""
        return self._gathered(torch.mm(matrix, self.inputs).mul_(self.outputs))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m, ``[rows, columns]``, for c ``[M]``."""
        return torch.mm(self.outputs * self._spread(coefficients), self._inputs_back)[:, : self._columns]

    def kernel(self, x: Tensor) -> Tensor:
        """Return κᵀ = xᵀa_mt, ``[N, T · M]``, for rows ``[N, columns]``, or without a last column of ones."""
        width = x.shape[1]
        if width == self._columns:
            return torch.mm(x, self.inputs)
        return torch.addmm(self.inputs[width], x, self.inputs[:width])

    def applied(self, coefficients: Tensor, kernel: Tensor) -> Tensor:
        """Return (Σ_m c_m G_m) x_b, ``[N, rows]``, from κᵀ of the x.

        It is differentiable; a backward pass with cotangents s_b brings ⟨G_m, Σ_b s_b x_bᵀ⟩ as the gradient by c_m.
        """
        return torch.mm(kernel * self._spread(coefficients), self._outputs_back)
