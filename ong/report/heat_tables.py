"""Accuracy matrices as tables whose cells are coloured: their numbers can be read, selected and printed."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex

from ong.report.columns import MISSING
from ong.report.heat_maps import mean_matrix
from ong.report.runs import Runs

__all__ = ["SHADES", "HeatTable", "heat_table"]

_STEPS = 20
SHADES = [
    (to_hex(mpl.colormaps["viridis"](step / _STEPS)), "#111111" if step / _STEPS > 0.6 else "#ffffff")
    for step in range(_STEPS + 1)
]
"""Ground and ink of accuracies 0, .05, …, 1: the colours of the figures."""


@dataclass(frozen=True)
class HeatTable:
    """R of a strategy, mean over seeds: rows of (heading, cells), a cell a text and its place in :data:`SHADES`."""

    name: str
    label: str
    seeds: int
    rows: list[tuple[str, list[tuple[str, int | None]]]]


def heat_table(runs: Runs, strategy: str) -> HeatTable:
    """Return a strategy's heat map."""
    rows = []
    for trained, row in enumerate(mean_matrix(runs, strategy), -1):
        cells: list[tuple[str, int | None]] = [
            (MISSING, None) if np.isnan(x) else (f"{x:.2f}".removeprefix("0"), round(float(x) * _STEPS)) for x in row
        ]
        rows.append(("before" if trained < 0 else str(trained), cells))
    return HeatTable(strategy, runs.label(strategy), len(runs.of(strategy)), rows)
