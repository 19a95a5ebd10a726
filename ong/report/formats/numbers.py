"""Numbers at full precision, for other programs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from ong.files import write_bytes
from ong.report.documents import sections
from ong.report.exports import csv_bytes, matrices_csv, matrices_npz
from ong.report.formats import Options, report_format
from ong.report.results import Results
from ong.report.runs import Runs
from ong.report.tables import seeds_frame

__all__ = ["csv", "matrices", "npz"]


@report_format("csv", "one row a run: every metric, cost and diagnostic", usual=True)
def csv(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``report.csv``, which has a column for the benchmark."""
    frames = [seeds_frame(runs) if isinstance(runs, Runs) else runs.frame for runs in sections(results.groups)]
    return _written(folder / "report.csv", csv_bytes(pd.concat(frames)))


@report_format("matrices", "every accuracy matrix as CSV, a row an entry")
def matrices(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``matrices.csv``."""
    return _written(folder / "matrices.csv", matrices_csv(results.groups))


@report_format("npz", "every accuracy matrix for numpy.load")
def npz(results: Results, folder: Path, options: Options) -> list[Path]:
    """Write ``matrices.npz``."""
    return _written(folder / "matrices.npz", matrices_npz(results.groups))


def _written(path: Path, content: bytes) -> list[Path]:
    write_bytes(path, content)
    return [path]
