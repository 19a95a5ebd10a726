"""What a run tells while it goes on: bars in a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from tqdm import tqdm

from ong.console import on_terminal, say

__all__ = ["Bars", "Overview", "Progress", "Silent"]


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

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Announce what was measured after so many passes over training data, each number of them once."""


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

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Do nothing."""


class Bars:
    """Two tqdm bars on the error stream, tasks and steps; none when that is not a terminal."""

    def __init__(self, label: str) -> None:
        """Name the run."""
        self._label = label
        self._hidden = not on_terminal()
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

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Leave the terminal tidy after an interruption."""
        for bar in (self._steps, self._tasks):
            if bar is not None:
                bar.close()


class Overview:
    """One bar over the parts of many runs, with those in training; elsewhere than on a terminal a line a finished run.

    A run tells from a thread of its own.
    """

    def __init__(self, runs: int, parts: int, *, show: bool = True) -> None:
        """Begin with so many runs, of so many tasks or epochs together."""
        terminal = on_terminal()
        self._bar = tqdm(total=parts, unit="part", disable=not (show and terminal), dynamic_ncols=True)
        self._lines = show and not terminal
        self._runs, self._finished = runs, 0
        self._parts: dict[str, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._describe()

    def tell(self, label: str, done: int, total: int) -> None:
        """Note how far a run is; one that had to begin again falls back."""
        with self._lock:
            before, _ = self._parts.get(label, (0, 0))
            self._parts[label] = (done, total)
            self._bar.update(done - before)
            self._describe()

    def finish(self, label: str, failure: str | None) -> None:
        """Note that a run has ended."""
        with self._lock:
            self._parts.pop(label, None)
            self._finished += 1
            if self._lines:
                seconds = time.monotonic() - self._started
                told = f"{label}: {'done' if failure is None else 'failed'}"
                say(f"{told} ({self._finished} of {self._runs} runs, {seconds:.0f} s)")
            self._describe()

    def close(self) -> None:
        """Leave the terminal tidy."""
        self._bar.close()

    def _describe(self) -> None:
        self._bar.set_description_str(f"{self._finished} of {self._runs} runs", refresh=False)
        running = [f"{label.partition(' / ')[2]}: {done}/{total}" for label, (done, total) in self._parts.items()]
        self._bar.set_postfix_str(", ".join(running))
