"""The trust region of the online natural gradient: how far a step may go, and λ beside it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ong.errors import UserError
from ong.natural.deep_linear.damping import LevenbergMarquardt
from ong.natural.online.settings import StepReport

__all__ = ["TrustRegion"]

FIRST, LEAST, MOST = 0.02, 1e-4, 0.25
"""r of the first step, of which nothing is known, and the bounds of r."""

TRIES = 3
"""How often a step that raised the loss is tried anew, each time at half the length."""


@dataclass
class TrustRegion:
    """A bound r on a step's divergence as a share of the batch's loss, and Levenberg and Marquardt's λ beside it.

    A step Δ moves the likelihood by KL = ½ ΔᵀFΔ nats an example. It is shortened to KL ≤ r · loss, and to the minimum
    that the quadratic model has along it. For a Gaussian likelihood r = ¼ lets the outputs go half the way to their
    targets (root mean square). Where a step does as predicted (ρ > ¾), what held it back is relaxed: r doubles if the
    step was shortened, λ shrinks otherwise. Where it does not (ρ < ¼), r becomes a quarter of what the step used, and
    λ grows. A step that raised the loss is taken back and tried at half the length, three times, then left out.

    Source: Conn, Gould, Toint, "Trust-region methods", 2000, section 6.1 (the radius); Ba, Grosse, Martens,
    "Distributed second-order optimization using Kronecker-factored approximations", ICLR 2017, section 5 (KL).

    Attributes:
        schedule: of λ.
        bounded: False leaves λ's rule alone: steps keep their length and are never taken back.
        radius: r.
        used: KL of the last step by the model, as a share of the loss.
        limited: whether the last step was shortened.
    """

    schedule: LevenbergMarquardt
    bounded: bool = True
    radius: float = FIRST
    used: float = 0.0
    limited: bool = False

    def share(self, divergence: float, loss: float, rate: float) -> float:
        """Return which share of a step to take, at most 1.

        Args:
            divergence: ½ ΔᵀFΔ of the whole step.
            loss: of the batch, ≥ 0.
            rate: ᾱ, how far the whole step goes to the model's minimum.

        Raises:
            UserError: a loss < 0.
        """
        if not self.bounded:
            return 1.0
        if loss < 0:
            raise UserError(f"the trust region needs losses ≥ 0, got {loss:g}; add a constant, or pass trust=False")
        most = self.radius * loss
        share = min(math.sqrt(most / divergence) if divergence > most else 1.0, 1 / rate, 1.0)
        self.limited = share < 1
        self.used = share**2 * divergence / loss if loss else 0.0
        return share

    def settle(
        self, report: StepReport, resolution: float, change: Callable[[], float], again: Callable[[float], None]
    ) -> tuple[StepReport, float]:
        """Judge a step by what it did to its batch's loss; return its report and the next λ.

        Args:
            report: of the step, with the change predicted.
            resolution: the size of change that the loss does not show.
            change: measures the batch's loss now less that before the step.
            again: takes the step anew at a share of its length, without momentum; 0 leaves it out.
        """
        actual = change()
        accepted = not self.bounded or actual <= resolution  # False for NaN
        report = replace(report, actual=actual, accepted=accepted)
        if accepted:
            return report, self._followed(report, resolution)
        for tried in range(1, TRIES + 1):
            self._shrink()
            again(0.5**tried)
            if change() <= resolution:
                break
        else:
            again(0.0)
        return report, self.schedule.updated(report.damping, 1.0, -1.0)

    def _followed(self, report: StepReport, resolution: float) -> float:
        """Return λ after a step that was kept, and move r.

        A step too small to show in the loss counts as good; λ then falls to its initial value, not below it.
        """
        assert report.predicted is not None
        assert report.actual is not None
        if report.predicted >= 0:  # momentum carried the weights uphill, and the ratio says nothing
            return report.damping
        if not self.bounded:
            return self.schedule.updated(report.damping, report.actual, report.predicted, resolution)
        seen = -report.predicted > resolution
        ratio = report.actual / report.predicted if seen else 1.0
        if ratio < 0.25:
            self._shrink()
        elif ratio > 0.75 and self.limited and self.radius < MOST:
            self.radius = min(2 * self.radius, MOST)
            return report.damping
        if not seen:
            return max(report.damping * 2 / 3, min(report.damping, self.schedule.initial))
        return self.schedule.updated(report.damping, report.actual, report.predicted)

    def _shrink(self) -> None:
        """Let r be a quarter of what the last step used, half its length, and count that as used."""
        self.used /= 4
        self.radius = max(min(self.radius, self.used), LEAST)
