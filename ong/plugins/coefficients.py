"""What projections have taken away from a layer, as coefficients of the stored directions.

For directions G_m = Σ_r δ_mr a_mrᵀ, inputs x_b and κ_mrb = a_mrᵀx_b, the layer adds

    (Σ_m C_m G_m) x_b = Σ_mr C_m κ_mrb δ_mr

to its outputs, and no vector of its size is needed: the loss's gradient by C_m is ⟨G_m, g⟩ for the layer's own gradient
g, so Gᵀg comes from the backward pass. κ does not change within a task: where the data lie in memory it is worked out
once.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature import Block
from ong.projection import FactoredRows
from ong.projection.layout import Layout

__all__ = ["PROBES", "Coefficients", "Moving", "alike", "moving", "plain_sgd"]

PROBES = 8  # directions at random


class Coefficients:
    """C of Σ_m C_m G_m, which a layer's held weights lack.

    A few random tuᵀ of one u are held with them, at C = 0, and say whether g comes from the layer's own passes alone.

    Attributes:
        layout: G, and the random ones after it.
        values: C, ``[M]``.
        velocity: that of SGD with momentum, ``[M]``.
        step: c of the present step, from the moment it is known to the next batch.
    """

    def __init__(self, rows: FactoredRows) -> None:
        """Start at zero, following nothing."""
        generator = torch.Generator().manual_seed(0)
        height, width = rows.shape
        self._across = torch.randn(PROBES, height, generator=generator).to(rows.like)
        self._along = torch.randn(width, generator=generator).to(rows.like)
        self._along[-1] = 1  # that of a bias
        self._along_weight = self._along[:-1]  # where there is one
        inputs, outputs = (F.pad(factor, (0, 0, 0, 0, 0, PROBES)) for factor in (rows.inputs, rows.outputs))
        inputs[-PROBES:, 0], outputs[-PROBES:, 0] = self._along, self._across
        self.layout = Layout(inputs, outputs)
        self._all = rows.like.new_zeros(len(rows) + PROBES)
        self.values = self._all[: len(rows)]
        self.velocity = torch.zeros_like(self.values)
        self.step: Tensor | None = None
        self._pending = False
        self._leaf: Tensor | None = self._all.detach().requires_grad_()  # the same numbers; a copy has none
        self._handle: Any = None

    def copy(self) -> Coefficients:
        """Return one with the same directions, and values of its own."""
        copied = copy.copy(self)
        copied._all, copied.velocity = self._all.clone(), self.velocity.clone()
        copied.values = copied._all[: len(self.values)]
        copied._leaf = copied._handle = None
        return copied

    def follow(self, optimizer: torch.optim.SGD, weight: nn.Parameter) -> None:
        """Let C move as the optimizer moves the weight, see :func:`plain_sgd`, by the step taken before it does."""
        self.close()
        self._handle = optimizer.register_step_pre_hook(lambda *_: self._advance(optimizer, weight))

    def close(self) -> None:
        """Follow no more."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def clear(self) -> None:
        """Go back to zero."""
        self.values.zero_()
        self.velocity.zero_()
        self.watch()

    def fold(self, block: Block, optimizer: torch.optim.SGD) -> None:
        """Put what C stands for into the layer's weights, their momentum and, before the next batch, their gradient."""
        with torch.no_grad():
            values, momentum, gradient = moving(block, optimizer)
            block.scatter(block.matrix(values) + self.combine(self.values), values)
            if momentum is not None:
                block.scatter(block.matrix(momentum) - self.combine(self.velocity), momentum)
            if gradient is not None and self.step is not None:
                block.scatter(block.matrix(gradient) - self.combine(self.step), gradient)
        self.clear()

    def watch(self) -> None:
        """A new batch has come; a step that the optimizer never took is forgotten."""
        self.step, self._pending = None, False
        if self._leaf is not None:
            self._leaf.grad = None

    def take(self, step: Tensor) -> None:
        """Let c be what the optimizer's next step lacks."""
        self.step, self._pending = step, True

    def _advance(self, optimizer: torch.optim.SGD, weight: nn.Parameter) -> None:
        if not self._pending or self.step is None:
            return
        step, self._pending = self.step, False
        (group,) = [g for g in optimizer.param_groups if any(p is weight for p in g["params"])]
        if group["momentum"]:
            self.velocity.mul_(group["momentum"]).add_(step)
            step = step + group["momentum"] * self.velocity if group["nesterov"] else self.velocity
        self.values.add_(step, alpha=float(group["lr"]))

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m, ``[rows, columns]``."""
        return self.layout.combine(F.pad(coefficients, (0, PROBES)))

    def shift(self, kernel: Tensor) -> Tensor:
        """Return (Σ_m C_m G_m) x_b, ``[N, rows]``, from the layout's κᵀ; differentiable by κ, and by C for products."""
        coefficients = self._all if self._leaf is None or not torch.is_grad_enabled() else self._leaf
        return self.layout.applied(coefficients, kernel)

    def products(self, block: Block) -> Tensor | None:
        """Return ⟨G_m, g⟩, ``[M]``, from the backward passes since the batch came.

        None where they do not make up the gradient g of the layer: ⟨tuᵀ, g⟩ for random t and u shows that something
        else was added to it, or taken away.
        """
        gradients = [parameter.grad for parameter in block.parameters if parameter.grad is not None]
        if self._leaf is None or self._leaf.grad is None or len(gradients) < len(block.parameters):
            return None
        weight, *bias = gradients
        along = torch.addmv(bias[0], weight, self._along_weight) if bias else torch.mv(weight, self._along)
        found, probes = self._leaf.grad[:-PROBES], self._leaf.grad[-PROBES:]
        off = torch.addmv(probes, self._across, along, alpha=-1)
        close: float = torch.finfo(off.dtype).eps  # its root, of the length
        return found if float(off.dot(off)) <= close * float(probes.dot(probes)) else None


class Moving(NamedTuple):
    """What SGD moves of a layer, and by what: tensors of its parameters' shapes; None where there is none yet."""

    values: list[Tensor]
    momentum: list[Tensor] | None
    gradient: list[Tensor] | None


def moving(block: Block, optimizer: torch.optim.Optimizer) -> Moving:
    """Return what SGD moves of a layer."""
    momentum = [optimizer.state.get(parameter, {}).get("momentum_buffer") for parameter in block.parameters]
    gradient = [parameter.grad for parameter in block.parameters]
    return Moving([parameter.data for parameter in block.parameters], _all(momentum), _all(gradient))


def _all(tensors: list[Tensor | None]) -> list[Tensor] | None:
    there = [tensor for tensor in tensors if tensor is not None]
    return there if len(there) == len(tensors) else None


def _homes(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [g for g in optimizer.param_groups for p in g["params"] if any(p is own for own in parameters)]


def alike(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> bool:
    """Return whether all parameters move by the same rule, as they must to be mixed by a rotation."""
    rules = [{k: v for k, v in group.items() if k != "params"} for group in _homes(optimizer, parameters)]
    return len(rules) == len(parameters) and all(rule == rules[0] for rule in rules)


def plain_sgd(optimizer: torch.optim.SGD, parameters: list[nn.Parameter]) -> bool:
    """Return whether all parameters move by one rate along gradients that nothing is added to."""
    homes = _homes(optimizer, parameters)
    group = homes[0] if homes else {}
    return (
        len(homes) == len(parameters)
        and all(home is group for home in homes)
        and not (group["weight_decay"] or group["dampening"] or group["maximize"])
    )
