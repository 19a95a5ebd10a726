"""Factored directions laid out for products with them, which is all that a training step does with directions."""

from __future__ import annotations

from threading import get_ident
from weakref import WeakValueDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["Layout"]

_EVEN = 8  # BLAS takes a quarter longer for products of 101 columns than of 104
_ROOMS: WeakValueDictionary[tuple[int, torch.dtype, torch.device], Tensor] = WeakValueDictionary()  # by thread


class Layout:
    """G_m = Σ_t δ_mt a_mtᵀ with the directions side by side and room to work in.

    Rows of one coordinate each, contiguous over the directions, suit narrow products and sums over a layer's rows
    better than rows of one direction each; coordinates are filled up with zeros to a multiple of eight.
    The room that a product needs on its way is kept from one to the next, and shared by all layouts that a thread uses,
    so that it stays in the processor's cache.

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
        """Memory held, but for the room to work in."""
        return sum(t.numel() * t.element_size() for t in (self._even, self.outputs))

    def _scratch(self, rows: int) -> Tensor:
        needed, like = rows * self.inputs.shape[1], self.inputs
        key = get_ident(), like.dtype, like.device
        room = _ROOMS.get(key)
        if room is None or room.numel() < needed:
            with torch.inference_mode(False):  # it outlives the pass that first wants it
                room = _ROOMS[key] = like.new_empty(needed)
        self._room = room  # which lives as long as a layout that has used it
        return room[:needed].view(rows, -1)

    def _spread(self, coefficients: Tensor) -> Tensor:
        return coefficients if self._positions == 1 else coefficients.repeat(self._positions)

    def _gathered(self, products: Tensor) -> Tensor:
        found = products.sum(0)
        return found if self._positions == 1 else found.reshape(self._positions, self._count).sum(0)

    def dot(self, matrix: Tensor) -> Tensor:
        """Return ⟨G_m, V⟩, ``[M]``, for V ``[rows, columns]``."""
        return self._gathered(torch.mm(matrix, self.inputs, out=self._scratch(matrix.shape[0])).mul_(self.outputs))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m, ``[rows, columns]``, for c ``[M]``."""
        weighted = torch.mul(self.outputs, self._spread(coefficients), out=self._scratch(self.outputs.shape[0]))
        return torch.mm(weighted, self._inputs_back)[:, : self._columns]

    def kernel(self, x: Tensor) -> Tensor:
        """Return κᵀ = xᵀa_mt, ``[N, T · M]``, for rows ``[N, columns]``, or without a last column of ones."""
        width = x.shape[1]
        if width == self._columns:
            return torch.mm(x, self.inputs)
        return torch.addmm(self.inputs[width], x, self.inputs[:width])

    def add_applied(self, z: Tensor, coefficients: Tensor, kernel: Tensor) -> None:
        """Add (Σ_m c_m G_m) x_b to rows z ``[N, rows]``, from κᵀ of the x."""
        weighted = torch.mul(kernel, self._spread(coefficients), out=self._scratch(kernel.shape[0]))
        z.addmm_(weighted, self._outputs_back)

    def dot_of_sum(self, cotangents: Tensor, kernel: Tensor) -> Tensor:
        """Return ⟨G_m, Σ_b s_b x_bᵀ⟩, ``[M]``, from s ``[N, rows]`` and κᵀ of the x."""
        return self._gathered(torch.mm(cotangents, self.outputs, out=self._scratch(kernel.shape[0])).mul_(kernel))

    def pulled_back(self, cotangents: Tensor, coefficients: Tensor, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Return (Σ_m c_m G_m)ᵀ s_b, ``[N, columns]``, which is differentiable by s, and :meth:`dot_of_sum`."""
        products = cotangents @ self.outputs
        found = self._gathered(torch.mul(products.detach(), kernel, out=self._scratch(kernel.shape[0])))
        return (products * self._spread(coefficients) @ self._inputs_back)[:, : self._columns], found
