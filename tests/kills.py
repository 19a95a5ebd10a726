"""A run that is killed between two tasks or epochs, and what of its record may differ once it has gone on."""

from __future__ import annotations

from typing import Any

from ong.experiments.progress import Silent


class Killed(BaseException):
    """Stands for a kill."""


class KillAfter(Silent):
    """Kills when the unit (task, epoch, evaluation) after ``units`` others starts."""

    def __init__(self, units: int) -> None:
        self.left = units

    def start_task(self, steps: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def timeless(record: dict[str, Any] | None) -> dict[str, Any]:
    """A record without what may differ: its clocks, and the version that only the written one names."""
    assert record is not None
    return {key: value for key, value in record.items() if key not in ("timing", "schema")}
