"""What projections have taken away from a layer, as coefficients of the stored directions.

For directions G_m = Σ_r δ_mr a_mrᵀ, inputs x_b and κ_mrb = a_mrᵀx_b, a step of gradient Σ_b s_b x_bᵀ needs no vector of
the layer's size but that gradient:

    ⟨G_m, Σ_b s_b x_bᵀ⟩ = Σ_rb κ_mrb δ_mrᵀs_b,      (Σ_m C_m G_m) x_b = Σ_mr C_m κ_mrb δ_mr.

κ does not change within a task: where the data lie in memory it is worked out once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ong.curvature import Block
from ong.projection import FactoredRows

__all__ = ["Coefficients", "Moving", "Shift", "moving", "plain_sgd"]

_AGREEMENT = 1e-3  # relative distance of ⟨G_m, g⟩ by factors and by the gradient, at the first step


class Shift:
    """What coefficients add to a layer's outputs for one batch, and what the backward pass leaves of it."""

    def __init__(self, coefficients: Coefficients, kernel: Tensor) -> None:
        """Take κᵀ of the batch, ``[N, R · M]``."""
        self._own, self._kernel = coefficients, kernel
        self.products: list[Tensor] = []  # ⟨G_m, Σ_b s_b x_bᵀ⟩, of each backward

    def add_to(self, z: Tensor) -> None:
        """Add (Σ_m C_m G_m) x_b to rows z ``[N, rows]``."""
        self._own.layout.add_applied(z, self._own.values, self._kernel)

    def pull(self, cotangents: Tensor, *, by_inputs: bool) -> Tensor | None:
        """Take note of s ``[N, rows]``; return the gradient by the inputs, ``[N, columns]``, where it is wanted."""
        own = self._own
        if not by_inputs:
            self.products.append(own.layout.dot_of_sum(cotangents.detach(), self._kernel))
            return None
        gradient, products = own.layout.pulled_back(cotangents, own.values, self._kernel)
        self.products.append(products)
        return gradient


class Coefficients:
    """C of Σ_m C_m G_m, which a layer's held weights lack.

    Attributes:
        layout: G.
        values: C, ``[M]``.
        velocity: that of SGD with momentum, ``[M]``.
        step: c of the present step, from the moment it is known to the next batch.
    """

    def __init__(self, rows: FactoredRows) -> None:
        """Start at zero, following nothing."""
        self.layout = rows.layout
        self.values = rows.like.new_zeros(len(rows))
        self.velocity = torch.zeros_like(self.values)
        self.step: Tensor | None = None
        self._shifts: list[Shift] | None = []  # since the batch came; a copy notes none
        self._checked = self._pending = False
        self._handle: Any = None

    def copy(self) -> Coefficients:
        """Return one with the same directions, and values of its own."""
        copied = copy.copy(self)
        copied.values, copied.velocity = self.values.clone(), self.velocity.clone()
        copied._shifts = copied._handle = None
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
        if self._shifts is not None:
            self._shifts = []

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
        return self.layout.combine(coefficients)

    def shift(self, kernel: Tensor) -> Shift:
        """Return what is added to the outputs for inputs of that κᵀ, ``[N, R · M]``."""
        shift = Shift(self, kernel)
        if self._shifts is not None and torch.is_grad_enabled():
            self._shifts.append(shift)
        return shift

    def products(self, parameters: list[nn.Parameter], expected: Callable[[], Tensor]) -> Tensor | None:
        """Return ⟨G_m, g⟩, ``[M]``, from the batch's own factors.

        Args:
            parameters: the layer's.
            expected: works out the same from the gradient itself; asked at the first step.

        Returns:
            None where the factors do not make up the gradient: more or less than one call of the layer took part in a
            backward, or (as the first step shows) something else adds to it.
        """
        passes = [products for shift in self._shifts or () for products in shift.products]
        if len(passes) != 1 or any(parameter.grad is None for parameter in parameters):
            return None
        (found,) = passes
        if not self._checked:
            exact = expected()
            if not (found - exact).norm() <= _AGREEMENT * exact.norm():
                return None
            self._checked = True
        return found


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


def plain_sgd(optimizer: torch.optim.SGD, parameters: list[nn.Parameter]) -> bool:
    """Return whether all parameters move by one rate along gradients that nothing is added to."""
    homes = [g for g in optimizer.param_groups for p in g["params"] if any(p is own for own in parameters)]
    group = homes[0] if homes else {}
    return (
        len(homes) == len(parameters)
        and all(home is group for home in homes)
        and not (group["weight_decay"] or group["dampening"] or group["maximize"])
    )
