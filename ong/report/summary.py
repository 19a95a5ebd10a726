"""The page's table of strategies, which a reader sorts, filters and groups."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ong.report.columns import Column
from ong.report.runs import Runs
from ong.report.tables import best, estimates, every_column, shown, summary_text

__all__ = ["Cell", "Row", "chooser", "memory_group", "memory_groups", "summary"]

TOLERANCE = 1.05
"""A strategy belongs to a budget that it exceeds by less than this factor: sizes come in whole examples."""


@dataclass(frozen=True)
class Cell:
    """What a column shows of a strategy: the text, the mean it is sorted by, whether it is the best."""

    key: str
    text: str
    value: str
    best: bool
    hidden: bool


@dataclass(frozen=True)
class Row:
    """A strategy: its name, what is printed for it, what it needs, the group of its memory, its cells."""

    name: str
    label: str
    needs: list[str]
    group: str
    reference: bool
    seeds: int
    cells: list[Cell]


def summary(runs: Runs) -> dict[str, Any]:
    """Return the columns, as (column, hidden), and the rows."""
    columns = every_column(runs)
    usual = {c.key for c in shown(runs)}
    winners = {c.key: best(runs, c) for c in columns}
    text = summary_text(runs, [c.key for c in columns]).set_index("Strategy")
    rows = []
    for name, row in estimates(runs).items():
        label = runs.label(name)
        cells = [
            Cell(
                c.key,
                str(text.loc[label, c.title]),
                "" if math.isnan(row[c.key].mean) else f"{row[c.key].mean:.9g}",
                label in winners[c.key],
                c.key not in usual,
            )
            for c in columns
        ]
        needs = list(dict.fromkeys(need for record in runs.of(name) for need in record.needs))
        group = memory_group(row["memory_bytes"].mean)
        rows.append(Row(name, label, needs, group, runs.is_reference(name), len(runs.of(name)), cells))
    return {"columns": [(c, c.key not in usual) for c in columns], "rows": rows}


def chooser(runs: Runs) -> dict[str, Any]:
    """Return what a reader can choose by: needs (the empty one is nothing), whether bytes are known, columns."""
    needs = sorted({need for name in runs.strategies for record in runs.of(name) for need in record.needs})
    without = any(not runs.needs(name) for name in runs.strategies)
    columns: list[tuple[Column, bool]] = summary(runs)["columns"]
    return {
        "needs": [*([""] if without else []), *needs] if needs else [],
        "memory": any(row["memory_bytes"].count for row in estimates(runs).values()),
        "columns": columns,
    }


def memory_groups(runs: Runs) -> list[str]:
    """Return the headings of the groups, the least bytes first."""
    sizes = sorted((row["memory_bytes"].mean for row in estimates(runs).values()), key=lambda x: (math.isnan(x), x))
    return list(dict.fromkeys(memory_group(size) for size in sizes))


def memory_group(size: float) -> str:
    """Return the heading of the budget that so many bytes belong to: the least power of two megabytes, 5 % over it too.

    >>> memory_group(2_018_628)
    'keeps up to 2 MB'
    """
    if math.isnan(size):
        return "bytes unknown"
    if size == 0:
        return "keeps nothing"
    budget = 1
    while size > TOLERANCE * budget * 1e6:
        budget *= 2
    return f"keeps up to {budget} MB"
