"""Running a closure: outputs and targets become a loss and the record of the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ong.curvature.blocks import Block
from ong.curvature.factors import Factors, Tape, record
from ong.errors import UserError
from ong.natural.online.likelihoods import Likelihood

__all__ = ["Closure", "Objective", "Pass"]

Closure = Callable[[], tuple[Tensor, Tensor]]
"""Runs the model on a batch and returns (outputs, targets); called again to measure what a step did."""


@dataclass(frozen=True)
class Pass:
    """A forward pass: what was recorded, the scalar loss, and the outputs as ``[N, C]``."""

    tape: Tape
    loss: Tensor
    outputs: Tensor


@dataclass(frozen=True)
class Objective:
    """A likelihood over the outputs of the model that has these blocks."""

    blocks: Mapping[str, Block]
    likelihood: Likelihood

    def forward(self, closure: Closure) -> Pass:
        """Run the closure with gradients, recorded.

        Raises:
            UserError: targets outside the likelihood's support.
        """
        with torch.enable_grad(), record(self.blocks) as tape:
            found = closure()
            if not (isinstance(found, tuple) and len(found) == 2):
                raise UserError(
                    f"the closure must return (outputs, targets) of a batch, got {type(found).__name__}; a loss of "
                    "your own goes into step(loss, outputs) after the forward was recorded"
                )
            outputs, targets = found
            outputs = outputs.flatten(1)
            return Pass(tape, self._loss(outputs, targets), outputs)

    def measured(self, closure: Closure) -> float:
        """Return the loss at the present weights."""
        with torch.no_grad():
            outputs, targets = closure()
            return float(self._loss(outputs.flatten(1), targets))

    def factors(self, run: Pass, generator: torch.Generator) -> dict[str, Factors]:
        """Draw the likelihood's cotangents and pull them back."""
        return run.tape.factors(run.outputs, self.likelihood.cotangent(run.outputs.detach(), generator))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.flatten(1) if targets.ndim > 2 else targets
        self.likelihood.check(outputs, targets)
        return self.likelihood.loss(outputs, targets)
