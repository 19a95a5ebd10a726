"""What reports can be written as: a file here holds a function under :func:`report_format` for each format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ong.extensions import Extensions, marked
from ong.report.results import Results

__all__ = ["FORMATS", "Options", "ReportFormat", "report_format"]


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        formats: the names of all formats that are written.
    """

    formats: tuple[str, ...]


Write = Callable[[Results, Path, Options], Iterable[Path]]
F = TypeVar("F", bound=Write)


@dataclass(frozen=True)
class ReportFormat:
    """A format: its name, what it is in a line, how it is written, and whether it is unless others are asked for."""

    name: str
    about: str
    write: Write
    usual: bool = False


def report_format(name: str, about: str, *, usual: bool = False) -> Callable[[F], F]:
    """Make a function a report format; the function itself stays as it is.

    >>> from pathlib import Path
    >>> from ong.report.formats import Options, report_format
    >>> from ong.report.results import Results
    >>> @report_format("best", "the best strategy's name")
    ... def write(results: Results, folder: Path, options: Options) -> list[Path]:
    ...     (folder / "best.txt").write_text(results.strategies[0])
    ...     return [folder / "best.txt"]

    Args:
        name: for ``--format``.
        about: what it is, in a line.
        usual: whether it is written unless formats are asked for.
    """

    def mark(function: F) -> F:
        return marked(function, ReportFormat(name, about, function, usual))

    return mark


FORMATS = Extensions(
    ReportFormat, "report format", "ong.report.formats", "ong.reports", by="ong.report.formats.report_format"
)
"""Every format by name."""
