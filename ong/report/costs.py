"""What accuracy costs: ``ACC`` against the bytes a strategy keeps, and against the seconds it trains."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ong.report.figures import LIGHT, MARKERS, Theme, legend, new_axes, plain_ticks, references, tidy
from ong.report.runs import Runs, unsized
from ong.report.tables import estimates

__all__ = ["ABOUT", "Cost", "accuracy_against", "costs"]

Cost = Literal["memory_bytes", "train_seconds"]

ABOUT: dict[Cost, tuple[str, str]] = {
    "memory_bytes": (
        "Accuracy against memory",
        "ACC over the bytes kept from task to task, stored inputs in the bytes they came in; a line joins one "
        "strategy's budgets. Bars are 95% t-intervals over seeds. What keeps nothing has no place here.",
    ),
    "train_seconds": (
        "Accuracy against training time",
        "ACC over the seconds of training, all tasks; a point for each strategy and budget. "
        "Bars are 95% t-intervals over seeds.",
    ),
}
"""Title and lead of each figure."""

_AXES = {"memory_bytes": "bytes kept from task to task", "train_seconds": "seconds of training, all tasks"}


def costs(runs: Runs) -> list[Cost]:
    """Return the costs that runs can be drawn against: those that at least two strategies or budgets have."""
    return [cost for cost in ABOUT if sum(map(len, _points(runs, cost).values())) > 1]


def _points(runs: Runs, cost: Cost) -> dict[str, list[tuple[float, float, float]]]:
    """Return (cost, ``ACC``, half-width) of each strategy's budgets, by cost; strategies by their best ``ACC``."""
    points: dict[str, list[tuple[float, float, float]]] = {}
    for name, row in estimates(runs).items():
        if name not in runs.references and row[cost].mean > 0 and not math.isnan(row["ACC"].mean):
            points.setdefault(unsized(name), []).append((row[cost].mean, row["ACC"].mean, row["ACC"].half_width))
    return {name: sorted(found) for name, found in points.items()}


def accuracy_against(runs: Runs, cost: Cost, theme: Theme = LIGHT) -> Figure:
    """Draw mean ``ACC`` over a cost on a logarithmic axis, with its 95% t-interval over seeds.

    Against bytes, the budgets of one strategy are joined by a line. Strategies that have all tasks at once are
    horizontal lines; one that keeps nothing has no place on the axis of bytes.
    """
    figure, axes = new_axes((8.6, 4.6), theme)
    points = _points(runs, cost)
    for i, (name, found) in enumerate(points.items()):
        x, acc, half = np.array(found).T
        turn = i // len(theme.lines)
        style = ("-", "--", ":")[turn % 3] if cost == "memory_bytes" and len(found) > 1 else "none"
        axes.errorbar(
            x, acc, yerr=np.nan_to_num(half), linestyle=style, color=theme.lines[i % len(theme.lines)],
            marker=MARKERS[(i + turn) % len(MARKERS)], markersize=5, linewidth=1.8, elinewidth=1.0, capsize=2.0,
            label=name, zorder=3,
        )  # fmt: skip
    joint = references(axes, runs, theme)
    axes.set_xscale("log")
    axes.margins(x=0.06)
    plain_ticks(axes)
    if cost == "memory_bytes":
        axes.xaxis.set_major_formatter(FuncFormatter(_bytes))
    ends = [acc + side * np.nan_to_num(half) for found in points.values() for _, acc, half in found for side in (-1, 1)]
    axes.set_ylim(max(0.0, min(ends + joint) - 0.01), min(1.0, max(ends + joint) + 0.01))
    axes.set_xlabel(_AXES[cost], color=theme.ink)
    axes.set_ylabel("ACC, average accuracy at the end", color=theme.ink)
    tidy(axes, theme)
    legend(axes, [*(n for n in runs.strategies if n in runs.references), *points], theme)
    return figure


def _bytes(value: float, _: object) -> str:
    size, unit = next((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")) if value >= s or s == 1)
    return f"{value / size:g} {unit}"
