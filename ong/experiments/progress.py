"""What a run tells while it goes on: bars in a terminal, events to a parent process, or nothing."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from tqdm import tqdm

__all__ = ["Bars", "Progress", "Relay", "Silent"]


class Progress(Protocol):
    """A listener of one run."""

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        """Announce the number of tasks (or whatever ``unit`` says), and how many a checkpoint has."""

    def start_task(self, steps: int) -> None:
        """Announce a task's steps."""

    def step(self) -> None:
        """Announce a finished step."""

    def end_task(self) -> None:
        """Announce a trained and evaluated task."""


class Silent:
    """Says nothing."""

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        """Do nothing."""

    def start_task(self, steps: int) -> None:
        """Do nothing."""

    def step(self) -> None:
        """Do nothing."""

    def end_task(self) -> None:
        """Do nothing."""


class Bars:
    """Two tqdm bars on the error stream, tasks and steps; none when that is not a terminal."""

    def __init__(self, label: str) -> None:
        """Name the run."""
        self._label = label
        self._hidden = not sys.stderr.isatty()
        self._tasks: Any = None
        self._steps: Any = None

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        """Show the bar of tasks."""
        self._tasks = tqdm(
            total=tasks,
            initial=done,
            desc=self._label,
            unit=unit,
            disable=self._hidden,
            leave=True,
            dynamic_ncols=True,
        )

    def start_task(self, steps: int) -> None:
        """Show the bar of steps."""
        self._steps = tqdm(
            total=steps,
            desc="  steps",
            unit="step",
            disable=self._hidden,
            leave=False,
            mininterval=0.3,
            position=1,
        )

    def step(self) -> None:
        """Advance the bar of steps."""
        self._steps.update()

    def end_task(self) -> None:
        """Advance the bar of tasks."""
        self._steps.close()
        self._tasks.update()
        if self._tasks.n == self._tasks.total:
            self._tasks.close()

    def close(self) -> None:
        """Leave the terminal tidy after an interruption."""
        for bar in (self._steps, self._tasks):
            if bar is not None:
                bar.close()


class Relay(Silent):
    """Sends each finished task of a run in another process to the parent's queue."""

    def __init__(self, queue: Any) -> None:
        """Send to a queue."""
        self._queue = queue

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        """Tell what a checkpoint already has."""
        self._queue.put(done)

    def end_task(self) -> None:
        """Tell of a task."""
        self._queue.put(1)
