"""What was measured, as tests look it up: reports of ``results/`` by folder and strategy, files of ``perf/`` by name."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "docs" / "experiments").glob("*.md")),
]


@cache
def rows(folder: str) -> list[dict[str, str]]:
    """The runs of a folder: a row of ``report.csv`` each."""
    with (RESULTS / folder / "report.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


FOLDERS = sorted(path.parent.name for path in RESULTS.glob("*/report.csv"))


def strategies(folder: str) -> set[str]:
    return {row["strategy"] for row in rows(folder)}


def by_seed(folder: str, strategy: str, key: str, benchmark: str = "") -> dict[str, float]:
    """A quantity of a strategy's runs, where it was measured; runs without a seed are counted."""
    chosen = [row for row in rows(folder) if row["strategy"] == strategy and benchmark in ("", row.get("benchmark"))]
    return {row.get("seed", str(place)): float(row[key]) for place, row in enumerate(chosen) if row.get(key)}


def interval(values: list[float]) -> tuple[float, ...]:
    """The mean, and the half-width of its 95 % t-interval where there are two values or more."""
    if len(values) < 2:
        return tuple(values)
    half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / math.sqrt(len(values))
    return fmean(values), float(half)


def mean(folder: str, strategy: str, key: str = "ACC", benchmark: str = "") -> tuple[float, ...]:
    """The interval over a strategy's seeds."""
    return interval(list(by_seed(folder, strategy, key, benchmark).values()))


def paired(folder: str, one: str, other: str, key: str = "ACC") -> tuple[float, ...]:
    """The interval of the differences of two strategies, ``one`` less ``other``, seed by seed."""
    first, second = by_seed(folder, one, key), by_seed(folder, other, key)
    return interval([first[seed] - second[seed] for seed in first.keys() & second.keys()])


@cache
def perf(name: str) -> Any:
    """What a program in ``perf/`` wrote."""
    return json.loads((RESULTS / "performance" / f"{name}.json").read_text(encoding="utf-8"))


def measured(values: Any) -> Iterator[float]:
    """Every number in such a file."""
    for part in values.values() if isinstance(values, dict) else values if isinstance(values, list) else [values]:
        if isinstance(part, dict | list):
            yield from measured(part)
        elif isinstance(part, int | float):
            yield float(part)


def digits(text: str) -> list[str]:
    """The numbers in a text as they are written, without signs and without the commas of thousands."""
    return re.findall(r"(?<![\w.])(?:\d+\.\d+|\.\d+|\d+)(?:e[-+]?\d+)?(?![\w])", re.sub(r"(?<=\d),(?=\d{3})", "", text))


def rounds_to(value: float, written: str) -> bool:
    """Whether a number, whatever its sign, is this one when it is written with as many digits."""
    mantissa, _, exponent = written.partition("e")
    unit = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(abs(value) - float(written)) <= 0.5 * unit * (1 + 1e-6)
