"""What the user of the online natural gradient may set, checked; and what a step reports."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

from ong.errors import UserError
from ong.natural.deep_linear.damping import LevenbergMarquardt

__all__ = ["DEFAULT_DAMPING", "NonFiniteStepError", "Settings", "StepReport"]

DEFAULT_DAMPING = LevenbergMarquardt(initial=1.0, floor=1e-3)
"""λ_0 = 1 as in the authors' code; without the floor λ fell to 5e-55 there and a factor was singular."""


@dataclass(frozen=True)
class Settings:
    """The options of :class:`NaturalGradient` that stay fixed; see there."""

    layers: int
    depth: int
    average: float
    ekfac: bool
    balanced: bool
    factors_every: int
    refresh_every: int
    adapt_every: int
    warmup: int

    def __post_init__(self) -> None:
        if not 0 <= self.average < 1:
            raise UserError(f"average (the decay of the running averages) must lie in [0, 1); got {self.average}")
        for name in ("depth", "factors_every", "refresh_every", "adapt_every"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1; got {getattr(self, name)}")
        if self.refresh_every % self.factors_every:
            nearest = max(1, round(self.refresh_every / self.factors_every)) * self.factors_every
            raise UserError(
                f"refresh_every must be a multiple of factors_every = {self.factors_every}; got "
                f"{self.refresh_every}, the nearest is {nearest}"
            )
        if self.warmup < 0:
            raise UserError(f"warmup must be a number of steps ≥ 0; got {self.warmup}")

    def rate(self, lr: float, momentum: float) -> float:
        """Return ᾱ = (lr / (1 − momentum)) (L / depth), the share of the way to the optimum that a step goes.

        L blocks that ignore each other move the outputs L times as far as each meant to: F u = −ᾱ∇.
        """
        return lr / (1 - momentum) * self.layers / self.depth

    def warn_of_overshoot(self, lr: float, momentum: float) -> None:
        """Warn of ᾱ ≥ 2: errors change by 1 − ᾱ a step, and swing with growing amplitude from there on."""
        rate = self.rate(lr, momentum)
        if rate >= 2:
            warnings.warn(
                f"lr = {lr:g}, momentum = {momentum:g} and depth = {self.depth} are an effective rate of "
                f"{rate:.2g} with {self.layers} layers: from 2 on steps diverge even where the quadratic "
                f"model is exact; lower lr below {2 * lr / rate:.2g}, or leave depth at {self.layers}",
                stacklevel=4,
            )

    def due(self, every: int, step: int) -> bool:
        """Whether what is done every so many steps is done at this one (0 is the first)."""
        return step < self.warmup or step % every == 0


def check_rates(lr: float, momentum: float, damping: float | LevenbergMarquardt) -> float:
    """Check the settings of the parameter group; return λ of the first step."""
    if not (math.isfinite(lr) and lr > 0):
        raise UserError(f"lr must be a positive number; got {lr}")
    if not 0 <= momentum < 1:
        raise UserError(f"momentum must lie in [0, 1); got {momentum}")
    if isinstance(damping, LevenbergMarquardt):
        return damping.initial
    if not (math.isfinite(damping) and damping > 0):
        raise UserError(
            f"damping must be a positive number or a LevenbergMarquardt schedule; got {damping}: the factors "
            "of a batch are singular without it"
        )
    return float(damping)


@dataclass(frozen=True)
class StepReport:
    """What one step did.

    Attributes:
        step: its number, from 0.
        loss: of its batch before the step.
        predicted: change of that loss by the quadratic model; None when the damping was not adapted at this
            step.
        actual: change measured; None likewise.
        damping: λ that the step used.
        accepted: False when the step was taken back because it raised the loss.
    """

    step: int
    loss: float
    predicted: float | None
    actual: float | None
    damping: float
    accepted: bool

    @property
    def ratio(self) -> float | None:
        """ρ = actual / predicted."""
        return self.actual / self.predicted if self.actual is not None and self.predicted else None


class NonFiniteStepError(RuntimeError):
    """A loss, gradient or curvature of NaN or infinity; the weights are those before the step.

    Attributes:
        step: the step's number, from 0.
    """

    def __init__(self, what: str, step: int, remedy: str) -> None:
        self.step = step
        super().__init__(f"{what} at step {step}; the weights are those before it; {remedy}")
