"""Factored directions laid out for products with them, which is all that a training step does with directions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["ByUnit", "Layout"]

_EVEN = 8  # BLAS takes a quarter longer for products of 101 columns than of 104
_UNEVEN = 4  # times as much memory as the directions need, at most


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


class ByUnit:
    """G_m = e_u a_mᵀ, an output layer's directions of single logits u, with those of one logit side by side.

    A product takes M · columns multiplications, where :class:`Layout` takes as many for every row.
    """

    def __init__(self, inputs: Tensor, units: Tensor, rows: int) -> None:
        """Lay out a ``[M, columns]`` and the units u ``[M]``, numbers below ``rows``."""
        self._inputs, self._order = inputs, units.argsort(stable=True)
        counts = torch.bincount(units, minlength=rows)
        self._starts = counts.cumsum(0) - counts
        width = int(counts.max())
        within = torch.arange(len(units), device=units.device) - self._starts[units[self._order]]
        self._places = torch.empty_like(units)
        self._places[self._order] = units[self._order] * width + within
        self._groups = inputs.new_zeros(rows, inputs.shape[1], width)
        self._groups[units[self._order], :, within] = inputs[self._order]

    @classmethod
    def of(cls, inputs: Tensor, outputs: Tensor) -> ByUnit | None:
        """Lay out a ``[M, T, columns]`` and δ ``[M, T, rows]``; None where some δ is no e_u, or most are the same."""
        count, positions, rows = outputs.shape
        single = positions == 1 and int(outputs.count_nonzero()) == count and bool((outputs.sum(2) == 1).all())
        if not count or not single:
            return None
        units = outputs.argmax(2).flatten()
        even = rows * int(torch.bincount(units).max()) <= _UNEVEN * count
        return cls(inputs.flatten(0, 1).contiguous(), units, rows) if even else None

    @property
    def bytes(self) -> int:
        """Memory held, beside a."""
        return sum(t.numel() * t.element_size() for t in (self._groups, self._order, self._starts, self._places))

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩, ``[M]``, for V ``[rows, columns]``."""
        return torch.bmm(matrix[:, None], self._groups).flatten().index_select(0, self._places)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m, ``[rows, columns]``, for c ``[M]``."""
        sorted_coefficients = coefficients.index_select(0, self._order)
        return F.embedding_bag(
            self._order, self._inputs, self._starts, mode="sum", per_sample_weights=sorted_coefficients
        )
