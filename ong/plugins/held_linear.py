"""The passes through a ``Linear`` layer whose weights are held in an eigenbasis."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature import BlockMetric

__all__ = ["Bases", "HeldLinear"]


class Bases:
    """U_A and U_S of a layer, cut up as its passes want them."""

    def __init__(self, metric: BlockMetric, biased: bool) -> None:
        """Cut up the bases of a layer that has a bias to be held, or none."""
        basis = metric.inputs_basis
        self.columns = len(basis)
        self.width = self.columns - biased
        self.biased = biased
        self.inputs, self.last = basis[: self.width], basis[-1]
        self.outputs, self.outputs_back = metric.outputs_basis, metric.outputs_basis.T.contiguous()

    @cached_property
    def back(self) -> Tensor:
        """The way back to the inputs."""
        return self.inputs.T.contiguous()

    def rotated(self, x: Tensor) -> Tensor:
        """Return U_Aᵀ[x; 1] for rows x."""
        return torch.addmm(self.last, x, self.inputs) if self.biased else torch.mm(x, self.inputs)


class HeldLinear(torch.autograd.Function):
    """z = U_S ([W̃ b̃] U_Aᵀ[x; 1] + shift) for rows x: one node of the graph where autograd would lay down ten."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rotated: Tensor | None,
        weight: Tensor,
        bias: Tensor | None,
        bases: Bases,
        shift: Tensor | None,
    ) -> Tensor:
        """Take ``[N, in]`` inputs, ``[N, columns]`` rotated ones or None, a shift ``[N, out]`` or None."""
        ctx.bases = bases
        joint = of_bias = None
        if rotated is None:
            rotated, joint = bases.rotated(x), _joint(weight, bias)
            inner = nn.functional.linear(rotated, joint)
        elif bias is None:
            inner = nn.functional.linear(rotated, weight)
        else:  # a wide layer's weights are not copied
            rotated, of_bias = rotated[:, : bases.width], rotated[:, -1]
            inner = nn.functional.linear(rotated, weight).addr_(of_bias, bias)
        ctx.save_for_backward(x, rotated, of_bias, weight, bias, joint)
        if shift is not None:
            inner += shift
        return torch.mm(inner, bases.outputs_back)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by inputs, weight, bias and shift, all but the first in the eigenbasis."""
        x, rotated, of_bias, weight, bias, joint = ctx.saved_tensors
        bases: Bases = ctx.bases
        needs_input, _, needs_weight, needs_bias, _, needs_shift = ctx.needs_input_grad
        if needs_input and (joint is None or torch.is_grad_enabled()):  # by x and weights, for gradients of gradients
            rotated, of_bias, joint = bases.rotated(x), None, _joint(weight, bias)
        inner = torch.mm(gradient, bases.outputs)
        inputs = by_weight = by_bias = None
        if needs_input:
            inputs = torch.mm(torch.mm(inner, joint), bases.back)
        if needs_weight or needs_bias:
            if of_bias is None and bias is not None:  # two products: autograd would copy the parts of one
                rotated, of_bias = rotated[:, : bases.width], rotated[:, -1]
            turned = inner.t()
            by_weight = torch.mm(turned, rotated)
            if of_bias is not None:
                by_bias = torch.mv(turned, of_bias)
        return (
            inputs,
            None,
            by_weight if needs_weight else None,
            by_bias if needs_bias else None,
            None,
            inner if needs_shift else None,
        )


def _joint(weight: Tensor, bias: Tensor | None) -> Tensor:
    return weight if bias is None else torch.cat([weight, bias[:, None]], 1)
