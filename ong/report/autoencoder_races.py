"""What one strategy took to reach the last training loss of another, in epochs and processor seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

from ong.report.crossings import at, crossing
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

__all__ = ["Race", "cpu_clock", "race_of", "races"]


@dataclass(frozen=True)
class Race:
    """When a run first reached another's last training loss.

    Attributes:
        epochs: epochs it took.
        seconds: processor seconds it took.
        share_of_epochs: its epochs over the other's.
        share_of_seconds: its seconds over the other's.
    """

    epochs: float
    seconds: float
    share_of_epochs: float
    share_of_seconds: float


def cpu_clock(record: HistoryRecord) -> list[float]:
    """Return the processor seconds of training so far, before training (0) and after every epoch."""
    return list(accumulate((float(s or 0.0) for s in record.timing.cpu_seconds), initial=0.0))


def race_of(record: HistoryRecord, owner: HistoryRecord) -> Race | None:
    """Return a run's race to the last training loss of another, or None if it never got there."""
    losses = owner.history["train_loss"]
    epochs = crossing(record.history["train_loss"], losses[-1])
    if epochs is None or len(losses) < 2:
        return None
    seconds, whole = at(epochs, cpu_clock(record)), cpu_clock(owner)[-1]
    return Race(epochs, seconds, epochs / (len(losses) - 1), seconds / whole if whole else math.nan)


def races(runs: HistoryRuns, name: str, owner: str) -> list[Race | None]:
    """Return a strategy's races against another, one for each seed that both have."""
    owners = {record.seed: record for record in runs.of(owner)}
    return [race_of(record, owners[record.seed]) for record in runs.of(name) if record.seed in owners]
