"""Levenberg-Marquardt damping: trust the quadratic model as far as it predicted the last step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ong.errors import UserError

__all__ = ["LevenbergMarquardt", "rounding_of"]


def rounding_of(loss: float, dtype: torch.dtype) -> float:
    """Return the size of change that a loss, a sum over many examples, does not show."""
    return 10 * torch.finfo(dtype).eps * abs(loss)


@dataclass(frozen=True)
class LevenbergMarquardt:
    """λ grows by 3/2 when ρ < ¼ and shrinks by 2/3 when ρ > ¾, between the floor and the ceiling.

    ρ is the change of the batch's loss over the one predicted by α ∇·v + ½ α² vᵀFv. (The authors' code
    predicts with −(1/L − 1/(2L²)) instead of the model's own −(α − α²/2); the published schedule and factors
    are otherwise these.)

    Args:
        initial: λ before the first step, in units of the squared-error loss. The authors' linear setting is
            ``LevenbergMarquardt.AUTHORS`` = 0.01; at 1e-6 their square net reaches its floor in 3 to 5 epochs
            rather than 5 to 6, for λ falls no faster than (2/3)^step.
        floor: the least λ; without one it underflows.
        ceiling: the largest λ, which a stall can be left from in a hundred steps.
    """

    AUTHORS: ClassVar[float] = 0.01

    initial: float = 1e-6
    floor: float = 1e-12
    ceiling: float = 1e12

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.initial <= self.ceiling:
            raise UserError(
                "Levenberg-Marquardt damping needs 0 < floor ≤ initial ≤ ceiling; got "
                f"{self.floor}, {self.initial} and {self.ceiling}"
            )

    def updated(self, damping: float, actual: float, predicted: float, resolution: float = 0.0) -> float:
        """Return the next λ, from the loss's actual and predicted change (both negative when all is well).

        A predicted change of no more than ``resolution``, the rounding of the loss, says nothing: λ stays.
        """
        if abs(predicted) <= resolution:
            return damping
        ratio = actual / predicted if predicted != 0 else 1.0
        if ratio > 0.75:
            return max(damping * 2 / 3, self.floor)
        if ratio >= 0.25:
            return damping
        return min(damping * 3 / 2, self.ceiling)
