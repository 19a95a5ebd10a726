"""A trial that is ended early: its run is worse after a task than half of the trials before it were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ong.experiments.jobs import Job
from ong.experiments.kinds import Run
from ong.experiments.progress import Progress
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder

__all__ = ["WATCHED_FROM", "WatchedJob", "course"]

WATCHED_FROM = 2
"""Tasks before whose end no run is ended: one that learns fast may forget fast."""


def course(rows: Sequence[Sequence[float | None]]) -> tuple[float, ...]:
    """Return the mean accuracy over the tasks so far after each task, from an accuracy matrix; none of joint training.

    Example:
        >>> course([[0.1, 0.1], [0.9, 0.1], [0.7, 0.9]])
        (0.9, 0.8)
    """
    seen = [row[: task + 1] for task, row in enumerate(rows[1:])]
    if any(value is None or value != value for row in seen for value in row):
        return ()
    return tuple(sum(value for value in row if value is not None) / len(row) for row in seen)


@dataclass(frozen=True)
class WatchedJob(Job):
    """A run that is ended after a task where its figure of merit is below a floor.

    Attributes:
        floors: by task.
    """

    floors: tuple[float, ...] = ()

    def run(self) -> Run:
        """Build what does it, and watches it."""
        return _Watched(super().run(), self.floors)


class _Watched:
    """A run, and a listener that ends it."""

    def __init__(self, run: Any, floors: tuple[float, ...]) -> None:
        self._run, self._floors = run, floors
        self.settings: dict[str, Any] = run.settings

    @property
    def units(self) -> int:
        return int(self._run.units)

    @property
    def place(self) -> dict[str, int]:
        found: dict[str, int] = self._run.place
        return found

    def run(self, folder: RunFolder, progress: Progress) -> dict[str, Any]:
        record: dict[str, Any] = self._run.run(folder, _Guard(progress, self._run, self._floors))
        return record


class _Guard:
    """Passes a run's progress on, and looks at its accuracy after each task but the last."""

    def __init__(self, progress: Progress, run: Any, floors: tuple[float, ...]) -> None:
        self._progress, self._run, self._floors = progress, run, floors

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        self._progress.start_run(tasks, done, unit)

    def start_task(self, steps: int) -> None:
        self._progress.start_task(steps)

    def step(self) -> None:
        self._progress.step()

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        self._progress.log(step, values)

    def end_task(self) -> None:
        self._progress.end_task()
        so_far = course(self._run.rows)
        task = len(so_far)
        if WATCHED_FROM <= task < self._run.units and task <= len(self._floors) and so_far[-1] < self._floors[task - 1]:
            raise StoppedError(
                f"ended after task {task - 1}: {so_far[-1]:.4f} is below {self._floors[task - 1]:.4f}, the median of "
                "the trials before",
                task=task,
                course=so_far,
            )
