"""A run's progress, of which loggers hear too."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ong.experiments.loggers import Logger, RunInfo
from ong.experiments.loggers.journal import Journal
from ong.experiments.progress import Progress
from ong.experiments.seeds import seeded
from ong.experiments.store import LOGGED, RunFolder, deciding, fingerprint

__all__ = ["Logged"]


class Logged:
    """Passes a run's progress on to a listener, and what it measures to loggers; a context manager that ends them.

    All that is measured is noted in the run's folder first. A run that was interrupted passes some steps again, with
    the same bits: these go to no logger, and what a logger lacks it is given from the notes.
    """

    def __init__(
        self,
        loggers: Mapping[str, Logger],
        progress: Progress,
        settings: Mapping[str, Any],
        folder: RunFolder,
        out: Path,
    ) -> None:
        """Start nothing yet.

        Args:
            loggers: by what warnings call them.
            progress: the listener.
            settings: what decides the run.
            folder: the run's.
            out: the folder of all runs.
        """
        self._loggers, self._progress = dict(loggers), progress
        self._settings, self._folder, self._out = dict(settings), folder.path, out
        self._started: dict[str, Logger] = {}
        self._journal: Journal | None = None

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End loggers of a run that stopped."""
        self.finish(None)

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        """Start the loggers, or have them go on, and give each what it lacks.

        Raises:
            UserError: the notes cannot be read.
            WorkStoppedError: the disk is full.
        """
        self._progress.start_run(tasks, done, unit)
        if self._loggers:
            self._journal = Journal(self._folder / LOGGED, fingerprint(self._settings))
            told = RunInfo(deciding(self._settings), self._folder, self._out, self._journal.id, self._journal.last)
            for name, logger in self._loggers.items():
                self._started[name] = logger
                self._tell(name, self._start, logger, told)

    def start_task(self, steps: int) -> None:
        """Pass it on."""
        self._progress.start_task(steps)

    def step(self) -> None:
        """Pass it on."""
        self._progress.step()

    def end_task(self) -> None:
        """Pass it on."""
        self._progress.end_task()

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Give the loggers what was measured; numbers that are missing or not finite are left out."""
        if self._journal is None or not self._started or step <= self._journal.last:
            return
        finite = _finite(values)
        try:
            self._journal.add(step, finite)
        except OSError as error:  # a full disk, which the run itself may survive
            _warn("noting what was measured", error)
            self.finish(None)
        for name, logger in list(self._started.items()):
            self._tell(name, logger.log, step, finite)

    def finish(self, metrics: Mapping[str, float | None] | None) -> None:
        """End the loggers.

        Args:
            metrics: the record's; None where the run stopped before its end.
        """
        for name, logger in list(self._started.items()):
            self._tell(name, logger.finish, None if metrics is None else _finite(metrics))
        self._started = {}
        if self._journal is not None:
            self._journal.close()

    def _start(self, logger: Logger, told: RunInfo) -> None:
        assert self._journal is not None
        held = logger.start(told)
        for step, values in self._journal.noted:
            if step > held:
                logger.log(step, values)

    def _tell(self, name: str, call: Callable[..., None], *arguments: Any) -> None:
        """Have a logger do something, the generators left as they are; one that fails is not asked again."""
        try:
            with seeded(0):
                call(*arguments)
        except Exception as error:
            del self._started[name]
            _warn(f"logger {name}", error)


def _warn(what: str, error: Exception) -> None:
    told = " ".join(str(error).split())[:300]
    warnings.warn(f"{what} failed ({type(error).__name__}: {told}); the run goes on without it", stacklevel=4)


def _finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float(v) for name, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
