"""What the report of a benchmark that is not a sequence of tasks consists of; each kind fills one in.

The writers (Markdown, LaTeX, HTML, CSV, terminal) know these parts only, so a new kind of benchmark needs no writer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure

from ong.report.columns import MISSING, number
from ong.report.figures import Theme
from ong.report.intervals import t_interval
from ong.report.records import Failure, HistoryRecord
from ong.report.runs import HistoryRuns, flatten

__all__ = ["Document", "Drawing", "Part", "TextTable", "interval", "small", "value"]


@dataclass(frozen=True)
class TextTable:
    """A table of strings under a heading.

    Attributes:
        title: the heading.
        lead: what stands below it.
        frame: the cells.
        text: columns that are words, flush left.
        hints: remarks on columns.
        best: by column, the rows (by first cell) that are best.
        droppable: columns a narrow terminal goes without, the first to go first.
    """

    title: str
    lead: str
    frame: pd.DataFrame
    text: tuple[str, ...] = ()
    hints: dict[str, str] = field(default_factory=dict)
    best: dict[str, set[str]] = field(default_factory=dict)
    droppable: tuple[str, ...] = ()


@dataclass(frozen=True)
class Drawing:
    """A figure under a heading, drawn once a theme; ``name`` is its file's."""

    title: str
    lead: str
    name: str
    draw: Callable[[Theme], Figure]


Part = TextTable | Drawing


@dataclass(frozen=True)
class Document:
    """One benchmark's report.

    Attributes:
        runs: where it comes from.
        tiles: the headline, as (label, value, remark).
        summary: one row a strategy.
        parts: everything else, in order.
        formulas: definitions by name.
        frame: one row a run at full precision, for the CSV.
        findings: what a reader of the terminal should be told too.
    """

    runs: HistoryRuns
    tiles: list[tuple[str, str, str]]
    summary: TextTable
    parts: list[Part]
    formulas: dict[str, str]
    frame: pd.DataFrame
    findings: tuple[str, ...] = ()

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return self.runs.benchmark

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The runs that ended early."""
        return self.runs.failures

    @property
    def drawings(self) -> list[Drawing]:
        """The figures."""
        return [part for part in self.parts if isinstance(part, Drawing)]

    def notes(self) -> list[str]:
        """Return what a reader must know before comparing."""
        return [*self.findings, *self.runs.notes()]


def rows_frame(runs: HistoryRuns) -> pd.DataFrame:
    """One row for each run: ``benchmark, strategy, seed``, its metrics, ``total_seconds``."""
    return pd.DataFrame([_row(record) for name in runs.strategies for record in runs.of(name)])


def _row(record: HistoryRecord) -> dict[str, object]:
    who = {"benchmark": record.benchmark_name, "strategy": record.strategy_name, "seed": record.seed}
    return {**who, **record.metrics, "total_seconds": record.timing.total_seconds}


def value(number_or_none: object) -> float:
    """Return a number of a record, NaN for its null."""
    return float(number_or_none) if isinstance(number_or_none, int | float) else math.nan


def small(number_: float, digits: int = 1) -> str:
    """Write a number that may span many powers of ten: 0.0123, 1.1e−05."""
    if math.isnan(number_):
        return MISSING
    if number_ == 0:
        return "0"
    if 0.01 <= abs(number_) < 10_000:
        return number(number_, digits + 2 if abs(number_) < 1 else digits + 1 if abs(number_) < 100 else 0)
    return f"{number_:.{digits}e}".replace("-", "−").replace("e+", "e")


def interval(values: Iterable[float], write: Callable[[float], str] = small) -> str:
    """Write the mean of several seeds' values with its 95% t-interval, as in ``0.93 ± 0.01``."""
    estimate = t_interval(values)
    mean = write(estimate.mean)
    return mean if math.isnan(estimate.half_width) else f"{mean} ± {write(estimate.half_width)}"


def recipe_pairs(recipe: dict[str, object], without: Sequence[str]) -> dict[str, str]:
    """Return a recipe's dotted keys and values as text."""
    flat = flatten({key: part for key, part in recipe.items() if key not in without})
    return {key: part if isinstance(part, str) else json.dumps(part) for key, part in flat.items() if part is not None}
