"""What a run tells while it goes on: bars in a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from ong.console import on_terminal, one_line, say

__all__ = ["Bars", "Overview", "Progress", "Silent", "duration"]

_WAITING = "waiting"


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
    """Many runs: on a terminal a table of strategies and seeds, elsewhere a line a finished run.

    A run tells from a thread of its own.
    """

    def __init__(self, units: Mapping[str, int], *, show: bool = True) -> None:
        """Begin.

        Args:
            units: how many tasks or epochs each run has, by its label ``BENCHMARK / STRATEGY / seed S``.
            show: whether to show anything.
        """
        self._units = dict(units)
        self._done, self._resumed = dict[str, int](), dict[str, int]()
        self._cells = dict.fromkeys(units, _WAITING)
        self._finished = 0
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._lines = show and not on_terminal()
        self._live = Live(get_renderable=self._shown, console=Console(stderr=True), refresh_per_second=2)
        if show and on_terminal():
            self._live.start()

    def tell(self, label: str, done: int, total: int) -> None:
        """Note how far a run is; one that had to begin again falls back."""
        with self._lock:
            if not self._done:
                self._started = time.monotonic()  # the first worker has imported what it needs
            self._resumed.setdefault(label, done)
            self._done[label] = done
            self._cells[label] = f"{done}/{total}"

    def finish(self, label: str, failure: str | None) -> None:
        """Note that a run has ended."""
        with self._lock:
            self._finished += 1
            self._done[label] = self._units[label]
            self._cells[label] = "done" if failure is None else "failed"
            if self._lines:
                seconds = time.monotonic() - self._started
                say(f"{label}: {self._cells[label]} ({self._finished} of {len(self._cells)} runs, {seconds:.0f} s)")

    def close(self) -> None:
        """Leave the table as it is."""
        self._live.stop()

    def _shown(self) -> Group:
        rows: dict[str, dict[str, str]] = {}
        for label, cell in self._cells.items():
            name, _, seed = label.rpartition(" / ")
            rows.setdefault(name, {})[seed] = cell
        seeds = list(dict.fromkeys(seed for row in rows.values() for seed in row))
        title = f"{self._finished} of {len(self._cells)} runs"
        done = sum(self._done.values())
        here = done - sum(self._resumed.values())  # what earlier commands did tells nothing of how fast this one is
        if here > 0 and self._finished < len(self._cells):
            left = (time.monotonic() - self._started) / here * (sum(self._units.values()) - done)
            title += f", about {duration(left)} left"
        table = Table(box=None, pad_edge=False)
        table.add_column()
        for seed in seeds:
            table.add_column(seed, justify="right", no_wrap=True)
        for name, row in rows.items():
            table.add_row(Text(one_line(name)), *(_styled(row.get(seed, "")) for seed in seeds))
        return Group(Text(title), table)


def _styled(cell: str) -> Text:
    return Text(cell, style={"done": "green", "failed": "red", _WAITING: "dim"}.get(cell, ""))


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them: ``0.4 s``, ``40 s``, ``3.5 min``, ``2.1 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
