"""The numbers that the page's interactive charts are drawn from, as JSON holds them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from ong.report.certificates import certified, promises
from ong.report.columns import Column, column
from ong.report.costs import AXES, costs
from ong.report.figures import curve_of
from ong.report.looks import SYMBOLS, looks
from ong.report.records import Record
from ong.report.runs import Runs, unsized
from ong.report.tables import estimates, task_frame

__all__ = ["charts"]

_DASHES = ("solid", "dash", "dot")
_OF_STEPS = ("leak", "leak_unseen", "descent_cosine")
_OF_RUNS = re.compile(r", (mean over tasks|all tasks|last task|the largest)$")
_NOT_DIAGNOSTICS = ("task", "before", "learned", "final", "change")


def charts(runs: Runs) -> dict[str, Any]:
    """Return what each chart shows, by strategy; numbers have five digits, None stands for what is missing."""
    return {
        "tasks": runs.tasks,
        "strategies": _strategies(runs),
        "curves": {
            name: {"mean": _rounded(e.mean for e in curve), "half": _rounded(e.half_width for e in curve)}
            for name in runs.strategies
            if not runs.is_reference(name)
            for curve in (curve_of(runs, name),)
        },
        "levels": {
            name: _rounded((row["ACC"].mean, row["ACC"].half_width))
            for name, row in estimates(runs).items()
            if runs.is_reference(name) and name != "scratch"
        },
        "costs": {
            cost: {
                "title": title,
                "points": {
                    name: _rounded((row[cost].mean, row["ACC"].mean, row["ACC"].half_width))
                    for name, row in estimates(runs).items()
                    if not runs.is_reference(name) and row[cost].mean > 0
                },
            }
            for cost, title in AXES.items()
            if cost in costs(runs)
        },
        "change": {
            name: _rounded(-task_frame(runs, name)["change"])
            for name in runs.strategies
            if not runs.is_reference(name) and "change" in task_frame(runs, name)
        },
        "diagnostics": _diagnostics(runs),
        "certificates": [
            {
                "title": title.replace("\n", " "),
                "lines": {
                    name: {part: _rounded(getattr(found, part)) for part in ("promised", "measured", "beyond")}
                    for name, found in lines.items()
                },
            }
            for title, lines in (promises(runs) if certified(runs) else {}).items()
        ],
    }


def _strategies(runs: Runs) -> list[dict[str, Any]]:
    found = []
    styles = looks(runs)
    for place, name in enumerate(runs.strategies):
        about: dict[str, Any] = {"name": name, "label": runs.label(name), "family": unsized(name)}
        if runs.is_reference(name):
            about |= {"reference": True, "dash": ("dash", "dot", "dashdot")[place % 3]}
        else:
            look = styles[name]
            symbol = SYMBOLS[look.mark] + ("-open" if look.hollow else "")
            about |= {"reference": False, "dash": _DASHES[look.dash], "colour": look.colour, "symbol": symbol}
        found.append(about)
    return found


def _diagnostics(runs: Runs) -> list[dict[str, Any]]:
    """Return every diagnostic kept by task or by measured step: x is the number of tasks trained, parts of one too."""
    found: dict[str, dict[str, Any]] = {}
    for name in runs.strategies:
        frame = task_frame(runs, name)
        steps = _steps(runs.of(name))
        for key in [*steps, *(str(key) for key in frame.columns if key not in (*steps, *_NOT_DIAGNOSTICS))]:
            x, y = steps[key] if key in steps else (list(range(1, runs.tasks + 1)), frame[key].to_list())
            found.setdefault(key, {})[name] = {"x": _rounded(x), "y": _rounded(y)}
    order = [key for key in _OF_STEPS if key in found]
    return [
        {
            "key": key,
            "title": column(key, runs).title,
            "about": _about(column(key, runs)),
            "log": _spans(found[key]),
            "lines": found[key],
        }
        for key in [*order, *(key for key in found if key not in order)]
    ]


def _about(known: Column) -> str:
    """Return what a quantity is of a task, without what a run's number makes of those of its tasks."""
    formula = known.formula.removeprefix("mean_t ").removeprefix("max_t ").removeprefix("Σ_t ")
    return ": ".join(part for part in (_OF_RUNS.sub("", known.about), formula) if part)


def _steps(records: list[Record]) -> dict[str, tuple[list[float], list[float]]]:
    """Return the diagnostics of measured steps, means over seeds at the same step."""
    seen: dict[str, dict[float, list[float]]] = {}
    for record in records:
        steps = [step for step in record.diagnostics.get("steps") or [] if isinstance(step, dict)]
        longest = 1 + max((step.get("step", 0) for step in steps), default=0)
        for step in steps:
            for key in _OF_STEPS:
                value = step.get(key)
                if isinstance(value, int | float):
                    x = step.get("task", 0) + step.get("step", 0) / longest
                    seen.setdefault(key, {}).setdefault(x, []).append(float(value))
    return {key: (sorted(points), [float(np.mean(points[x])) for x in sorted(points)]) for key, points in seen.items()}


def _spans(lines: dict[str, dict[str, list[float | None]]]) -> bool:
    """Whether values call for a logarithmic axis: positive, over more than a factor of thirty."""
    values = [y for line in lines.values() for y in line["y"] if y is not None]
    return bool(values) and min(values) > 0 and max(values) > 30 * min(values)


def _rounded(values: Iterable[float] | None) -> list[float | None]:
    if values is None:
        return []
    return [None if math.isnan(value) else float(f"{value:.5g}") for value in values]
