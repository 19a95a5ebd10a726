"""Running a closure: outputs and targets become a loss and the record of the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ong.curvature.blocks import Block
from ong.curvature.factors import Factors
from ong.curvature.tape import Tape, record
from ong.errors import UserError
from ong.natural.online.likelihoods import Categorical, Likelihood

__all__ = ["Closure", "Objective", "Pass"]

Closure = Callable[[], tuple[Tensor, Tensor]]
"""Runs the model on a batch and returns (outputs, targets); called again to measure what a step did."""


@dataclass(frozen=True)
class Pass:
    """A forward pass: what was recorded, the scalar loss, and the outputs as ``[N, C]``.

    Attributes:
        tape: what was recorded.
        loss: the scalar.
        outputs: ``[N, C]``.
        random: states of torch's generators before it, by device, from which the same masks are drawn again.
    """

    tape: Tape
    loss: Tensor
    outputs: Tensor
    random: dict[torch.device, Tensor] = field(default_factory=dict)


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
        random = self._random_states()
        with torch.enable_grad(), record(self.blocks) as tape:
            found = closure()
            if not (isinstance(found, tuple) and len(found) == 2):
                raise UserError(
                    f"the closure must return (outputs, targets) of a batch, got {type(found).__name__}; a loss of "
                    "your own goes into step(loss, outputs) after the forward was recorded"
                )
            outputs, targets = found
            outputs = self.flattened(outputs)
            return Pass(tape, self._loss(outputs, targets), outputs, random)

    def recorded(self, tape: Tape | None, loss: Tensor, outputs: Tensor | None) -> Pass:
        """Return a forward pass that the caller ran and recorded.

        Raises:
            UserError: it was not recorded, or its outputs are not given.
        """
        if tape is None or outputs is None:
            raise UserError(
                "step(loss, outputs) needs the outputs, and their forward pass recorded: "
                "with optimizer.recording(): outputs = model(x)"
            )
        with torch.enable_grad():
            return Pass(tape, loss, self.flattened(outputs))

    def change(self, closure: Closure, before: Pass) -> float:
        """Return the loss at the present weights less that of a pass before, with the same draws of torch's generators.

        These are the draws that the pass took, as for dropout's masks.
        """
        cuda = [device for device in before.random if device.type == "cuda"]
        with torch.no_grad(), torch.random.fork_rng(cuda):
            for device, state in before.random.items():
                if device.type == "cuda":
                    torch.cuda.set_rng_state(state, device)
                else:
                    torch.set_rng_state(state)
            outputs, targets = closure()
            return float(self._loss(self.flattened(outputs), targets)) - float(before.loss.detach())

    def flattened(self, outputs: Tensor) -> Tensor:
        """Return outputs as ``[N, C]``.

        Raises:
            UserError: none a second dimension, or classes that are not the only one beside the examples.
        """
        if outputs.ndim < 2 or not len(outputs):
            raise UserError(f"outputs must be [examples, …] of at least one example, got {list(outputs.shape)}")
        if outputs.ndim > 2 and isinstance(self.likelihood, Categorical):
            raise UserError(
                f"the categorical likelihood takes outputs [examples, classes], got {list(outputs.shape)}; sequences "
                "of classes need a likelihood of their own"
            )
        return outputs.flatten(1)

    def _random_states(self) -> dict[torch.device, Tensor]:
        states = {torch.device("cpu"): torch.get_rng_state()}
        device = next(iter(self.blocks.values())).parameters[0].device
        if device.type == "cuda":
            states[device] = torch.cuda.get_rng_state(device)
        return states

    def factors(self, run: Pass, generator: torch.Generator) -> dict[str, Factors]:
        """Draw the likelihood's cotangents and pull them back."""
        return run.tape.factors(run.outputs, self.likelihood.cotangent(run.outputs.detach(), generator))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        targets = targets.flatten(1) if targets.ndim > 2 else targets
        self.likelihood.check(outputs, targets)
        return self.likelihood.loss(outputs, targets)
