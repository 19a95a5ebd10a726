"""What a training run leaves behind, whole or broken off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DivergedError", "EpochRecord"]


@dataclass(frozen=True)
class EpochRecord:
    """The state after an epoch, means over examples.

    Attributes:
        epoch: number of finished epochs; 0 is before training.
        train_loss: −log p(x | h) in nats; ½‖x − h‖² when Gaussian, cross-entropy when Bernoulli.
        test_loss: likewise.
        train_error: ½‖x − x̂‖² in the units of the data.
        test_error: likewise.
        seconds: wall-clock seconds of training so far, evaluation excluded.
        cpu_seconds: processor seconds of the same, less disturbed by other programs.
        damping: λ of the next step; None for optimizers without.
        rejected: steps undone so far; 0 for optimizers that undo none.
    """

    epoch: int
    train_loss: float
    test_loss: float
    train_error: float
    test_error: float
    seconds: float
    cpu_seconds: float
    damping: float | None = None
    rejected: int = 0


class DivergedError(RuntimeError):
    """Training met NaN or infinity.

    Attributes:
        step: number of the step within the run, from 0.
        epoch: the epoch it belonged to, from 1.
        history: the records of the finished epochs.
    """

    def __init__(self, what: str, *, step: int, epoch: int, history: Sequence[EpochRecord]) -> None:
        self.step = step
        self.epoch = epoch
        self.history = list(history)
        super().__init__(
            f"{what} (step {step}, epoch {epoch}); {max(len(self.history) - 1, 0)} finished epochs are kept"
        )
