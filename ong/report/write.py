"""Write the report of a directory's records into that directory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from ong.errors import UserError, WorkStoppedError
from ong.metrics import Metric
from ong.report.choice import Choice
from ong.report.formats import FORMATS, Options, ReportFormat
from ong.report.reading import read_runs
from ong.report.results import Results
from ong.report.selection import choose

__all__ = ["write_report"]


def write_report(
    directory: Path | str,
    formats: Iterable[str] | None = None,
    choice: Choice | None = None,
    metrics: Sequence[Metric] = (),
) -> list[Path]:
    """Read the records under a directory and write ``report.{md,csv,tex,html}`` and ``figures/`` into it.

    ``report.csv`` has one row for each strategy and seed. Of several benchmarks every report has a section
    each, the CSV a column, and the figures lie in ``figures/BENCHMARK/``.

    Args:
        directory: where the records lie.
        formats: names in :data:`ong.report.formats.FORMATS`, or ``module:Name``; the usual ones if None.
        choice: the strategies and columns shown, their labels and the paper of the figures; all if None.
        metrics: what is computed beside the usual metrics.

    Returns:
        The files written.

    Raises:
        UserError: if a format, strategy or column is unknown, there are no records or they are broken, or the directory
            cannot be written to.
        WorkStoppedError: if the disk is full; every file is whole then, of this report or of the one before.
    """
    directory = Path(directory)
    usual = [name for name, known in FORMATS.own.items() if known.usual]
    wanted = [FORMATS.get_or_use(name) for name in dict.fromkeys(usual if formats is None else formats)]
    if not wanted:
        raise UserError(f"no format to write; give any of {','.join(FORMATS)}")
    results = Results(choose(read_runs(directory, metrics), choice or Choice()))
    options = Options(tuple(known.name for known in wanted))
    return [path for known in wanted for path in _write(known, results, directory, options)]


def _write(known: ReportFormat, results: Results, directory: Path, options: Options) -> list[Path]:
    try:
        return [Path(path) for path in known.write(results, directory, options)]
    except WorkStoppedError:
        raise
    except UserError as error:
        if os.access(directory, os.W_OK):
            raise
        raise UserError(
            f"{error}; reports are written beside the records, so copy these to a place you may write to"
        ) from None
    except Exception as error:
        if known in FORMATS.own.values():  # what a report does not understand of records is told elsewhere
            raise
        told = " ".join(str(error).split())
        raise UserError(f"report format '{known.name}' fails ({type(error).__name__}: {told})") from error
