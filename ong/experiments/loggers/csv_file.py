"""A CSV file in the run's folder, ``log.csv``: a line a number."""

from __future__ import annotations

import csv
from collections.abc import Mapping

from ong.experiments.loggers import Logger, RunInfo
from ong.experiments.store import LOG
from ong.files import is_there

__all__ = ["CSVLogger"]


class CSVLogger(Logger):
    """Writes ``step,name,value``.

    ``pandas.read_csv("log.csv").pivot(index="step", columns="name", values="value")`` has a column a name.
    """

    def start(self, run: RunInfo) -> int:
        """Begin the file, also that of a run that goes on, as a kill may have torn it."""
        path = run.folder / LOG
        is_there(path)  # a pipe of this name would wait for a reader
        self._file = path.open("w", newline="", encoding="utf-8")
        csv.writer(self._file).writerow(["step", "name", "value"])
        return -1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a line for each."""
        csv.writer(self._file).writerows([step, name, value] for name, value in values.items())
        self._file.flush()

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """Close the file; final metrics are in the record."""
        self._file.close()
