"""What a training run leaves behind, whole or broken off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["DivergedError", "EpochRecord", "History"]


@dataclass(frozen=True)
class EpochRecord:
    """The state after an epoch; losses are squared errors ½ E‖y − Wx‖².

    Attributes:
        epoch: number of finished epochs; 0 is before training.
        train_loss: on the training examples, or expected when there are none.
        test_loss: on the test examples, or expected.
        excess: expected loss above the floor, ½ tr(E C Eᵀ).
        rate: geometric mean over the epoch's steps of the ratio of successive excess losses; None at epoch 0.
        residual: ‖F v + ∇‖/‖∇‖ of the epoch's last step for its own batch; None for strategies that do not
            solve it.
        damping: λ of the last step.
    """

    epoch: int
    train_loss: float
    test_loss: float
    excess: float
    rate: float | None = None
    residual: float | None = None
    damping: float = 0.0


@dataclass
class History:
    """A run: what was asked for, and a record of every finished epoch, the state before training first."""

    strategy: str
    alpha: float
    dims: tuple[int, ...]
    floor: float
    epochs: list[EpochRecord] = field(default_factory=list)

    @property
    def test_losses(self) -> list[float]:
        """Test loss before training and after every epoch."""
        return [record.test_loss for record in self.epochs]

    def first_epoch_below(self, loss: float) -> int | None:
        """Return the first epoch whose test loss is at most ``loss``, or None."""
        return next((record.epoch for record in self.epochs if record.test_loss <= loss), None)

    def measured_rate(self, last: int = 10, *, negligible: float = 1e-20) -> float | None:
        """Return the ratio of excess losses an epoch, a geometric mean over the last epochs above rounding.

        With one step an epoch (no data) this is to be compared with (1 − α)².

        Args:
            last: how many epochs to average over.
            negligible: excess, as a share of the one before training, below which rounding rules.
        """
        return _geometric_rate([record.excess for record in self.epochs], last, negligible)


class DivergedError(RuntimeError):
    """Training met NaN or infinity; ``history`` holds the finished epochs."""

    def __init__(self, what: str, *, step: int, epoch: int, history: History) -> None:
        self.step = step
        self.epoch = epoch
        self.history = history
        super().__init__(
            f"{history.strategy} (alpha {history.alpha:g}) diverged: {what} at step {step}, epoch {epoch}; "
            f"{max(len(history.epochs) - 1, 0)} finished epochs are kept; lower alpha, add damping, or use "
            "a form that is bounded for these widths"
        )


def _geometric_rate(excess: Sequence[float], last: int, negligible: float) -> float | None:
    kept = [value for value in excess if value > negligible * excess[0]]
    if len(kept) < 2:
        return None
    span = min(last, len(kept) - 1)
    return float((kept[-1] / kept[-1 - span]) ** (1 / span))
