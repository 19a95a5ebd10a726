"""The pass through a ``Linear`` layer whose weights are held in an eigenbasis."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ong.curvature import BlockMetric
from ong.plugins.coefficients import Coefficients

__all__ = ["Bases", "HeldLinear", "Shift"]


class Bases:
    """U_A and U_S of a layer, cut up as its passes want them."""

    def __init__(self, metric: BlockMetric, biased: bool) -> None:
        """Cut up the bases of a layer that has a bias to be held, or none."""
        basis = metric.inputs_basis
        self.columns = len(basis)
        self.width = self.columns - biased
        self.biased = biased
        self.inputs, self.last = basis[: self.width], basis[-1]
        self.back, self.back_last = self.inputs[:, : self.width].T.contiguous(), self.inputs[:, -1].contiguous()
        self.outputs, self.outputs_back = metric.outputs_basis, metric.outputs_basis.T.contiguous()

    def rotated(self, x: Tensor) -> Tensor:
        """Return U_Aᵀ[x; 1] for rows x."""
        return torch.addmm(self.last, x, self.inputs) if self.biased else torch.mm(x, self.inputs)


class Shift:
    """What coefficients add to a layer's outputs for one batch, before those are rotated back."""

    def __init__(self, coefficients: Coefficients, kernel: Tensor) -> None:
        """Take κᵀ of the batch, ``[N, R · M]``."""
        self.coefficients, self.kernel = coefficients, kernel
        self.weighted = coefficients.weighted(kernel)
        self.cotangents: list[Tensor] = []

    def by_inputs(self, inner: Tensor) -> Tensor:
        """Return the gradient by the rotated inputs, ``[N, columns]``."""
        own = self.coefficients
        return own.weighted(inner @ own.outputs.T) @ own.inputs


class HeldLinear(torch.autograd.Function):
    """z = U_S ([W̃ b̃] + Σ_m C_m G̃_m) U_Aᵀ[x; 1] for rows x: one node of the graph where autograd would lay down ten."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rotated: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        bases: Bases,
        shift: Shift | None,
    ) -> Tensor:
        """Take ``[N, in]`` inputs, or ``[N, columns]`` rotated ones with them; return ``[N, out]``."""
        if rotated is None:
            rotated = bases.rotated(x)
        of_weight = rotated[:, : bases.width]
        of_bias = rotated[:, -1]  # where there is a bias
        ctx.bases, ctx.shift = bases, shift
        ctx.save_for_backward(of_weight, of_bias, weight, bias)
        inner = nn.functional.linear(of_weight, weight)
        if bias is not None:
            inner.addr_(of_bias, bias)
        if shift is not None:
            inner.addmm_(shift.weighted, shift.coefficients.outputs)
        return torch.mm(inner, bases.outputs_back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by inputs, weight and bias, those of the latter two in the eigenbasis."""
        of_weight, of_bias, weight, bias = ctx.saved_tensors
        bases: Bases = ctx.bases
        needs_input, _, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        inner = torch.mm(gradient, bases.outputs)
        inputs = by_weight = by_bias = None
        if needs_input:
            inputs = torch.mm(torch.mm(inner, weight), bases.back)
            if bias is not None:
                inputs.addr_(torch.mv(inner, bias), bases.back_last)
            if ctx.shift is not None:
                inputs.addmm_(ctx.shift.by_inputs(inner), bases.inputs.T)
        if ctx.shift is not None:
            ctx.shift.cotangents.append(inner)
        transposed = inner.T
        if needs_weight:
            by_weight = torch.mm(transposed, of_weight)
        if needs_bias:
            by_bias = torch.mv(transposed, of_bias)
        return inputs, None, by_weight, by_bias, None, None
