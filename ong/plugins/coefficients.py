"""What projections have taken away from a layer, as coefficients of the stored directions.

For directions G_m = Σ_r δ_mr a_mrᵀ, inputs x_b and κ_mrb = a_mrᵀx_b, a step of gradient Σ_b s_b x_bᵀ needs no vector of
the layer's size but that gradient:

    ⟨G_m, Σ_b s_b x_bᵀ⟩ = Σ_rb κ_mrb δ_mrᵀs_b,      (Σ_m C_m G_m) x_b = Σ_mr C_m κ_mrb δ_mr.

κ does not change within a task: where the data lie in memory it is worked out once.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from ong.projection import FactoredRows

__all__ = ["Coefficients", "plain_sgd"]


class Coefficients:
    """C of Σ_m C_m G_m, which a layer's held weights lack.

    Attributes:
        inputs: a, ``[R · M, columns]``, all directions of r = 1 first.
        outputs: δ, ``[R · M, rows]``.
        values: C, ``[M]``.
        velocity: that of SGD with momentum, ``[M]``.
        step: c of the present step, from the moment it is known to the next batch.
    """

    def __init__(self, rows: FactoredRows) -> None:
        """Start at zero."""
        self.inputs = rows.inputs.transpose(0, 1).flatten(0, 1)
        self.outputs = rows.outputs.transpose(0, 1).flatten(0, 1)
        self._terms = rows.inputs.shape[1]
        self.values = rows.like.new_zeros(len(rows))
        self.velocity = torch.zeros_like(self.values)
        self.step: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def copy(self) -> Coefficients:
        """Return one with the same directions, and values of its own."""
        copied = copy.copy(self)
        copied.values, copied.velocity = self.values.clone(), self.velocity.clone()
        return copied

    def clear(self) -> None:
        """Go back to zero."""
        self.values.zero_()
        self.velocity.zero_()
        self.step = None

    def _spread(self, coefficients: Tensor) -> Tensor:
        return coefficients if self._terms == 1 else coefficients.repeat(self._terms)

    def combine(self, coefficients: Tensor) -> Tensor:
        """Return Σ_m c_m G_m, ``[rows, columns]``."""
        return (self.outputs * self._spread(coefficients)[:, None]).T @ self.inputs

    def kernel(self, x: Tensor) -> Tensor:
        """Return κᵀ, ``[N, R · M]``, for inputs ``[N, columns]``, or without a last column of ones."""
        width = x.shape[1]
        products = x @ self.inputs[:, :width].T
        return products + self.inputs[:, width] if self.inputs.shape[1] > width else products

    def weighted(self, kernel: Tensor) -> Tensor:
        """Return κᵀ times C, column by column, ``[N, R · M]``; its product with :attr:`outputs` is (Σ_m C_m G_m) x."""
        return kernel * self._spread(self.values)

    def products(self, kernel: Tensor, cotangents: Tensor) -> Tensor:
        """Return ⟨G_m, Σ_b s_b x_bᵀ⟩, ``[M]``, from κᵀ of the inputs and s ``[N, rows]``."""
        found = (cotangents @ self.outputs.T).mul_(kernel).sum(0)
        return found if self._terms == 1 else found.reshape(self._terms, -1).sum(0)

    def follow(self, step: Tensor, optimizer: torch.optim.SGD, weight: nn.Parameter) -> None:
        """Let C follow plain SGD: with c for the gradient, the same rate and momentum as the weight's."""
        self.step = step
        (group,) = [g for g in optimizer.param_groups if any(p is weight for p in g["params"])]
        if group["momentum"]:
            self.velocity.mul_(group["momentum"]).add_(step)
            step = step + group["momentum"] * self.velocity if group["nesterov"] else self.velocity
        self.values.add_(step, alpha=float(group["lr"]))


def plain_sgd(optimizer: torch.optim.SGD, parameters: list[nn.Parameter]) -> bool:
    """Return whether all parameters move by one rate along gradients that nothing is added to."""
    homes = [g for g in optimizer.param_groups for p in g["params"] if any(p is own for own in parameters)]
    group = homes[0] if homes else {}
    return (
        len(homes) == len(parameters)
        and all(home is group for home in homes)
        and not (group["weight_decay"] or group["dampening"] or group["maximize"])
    )
