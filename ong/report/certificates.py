"""What theory promises of a method's old outputs, beside what was measured: a figure by task and a table."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ong.report.columns import COLUMNS
from ong.report.figures import LIGHT, MARKERS, Theme, plain_ticks, tidy
from ong.report.runs import Runs
from ong.report.tables import summary_text, task_frame

__all__ = ["PROMISED", "certificate_text", "certified", "promised_and_measured"]

PROMISED = "promised and measured"
"""The figure's name."""

_PANELS = (
    ("all logits of old examples", "promised", "measured"),
    ("2 KL of old examples' outputs", "divergence", "divergence_measured"),
    ("true logit of old test examples", "distance", "distance_measured"),
    ("true logit of stored examples,\nsince the end of their task", "stored", "stored_measured"),
)
_BEYOND = "nonlinear"
_OWN = ("promised", "divergence", "distance")  # what only a method with a metric or directions has


def certified(runs: Runs) -> list[str]:
    """Return the strategies whose method promises something of old outputs, the best first."""
    return [name for name in runs.strategies if any(_by_task(runs, name, key) is not None for key in _OWN)]


def certificate_text(runs: Runs) -> pd.DataFrame:
    """Return the certificates of these strategies as they are printed, means over tasks."""
    keys = [column.key for column in COLUMNS if column.key.startswith("certificate_")]
    frame = summary_text(runs, keys).drop(columns="Needs", errors="ignore")
    return frame[frame["Strategy"].isin(certified(runs))].reset_index(drop=True)


def promised_and_measured(runs: Runs, theme: Theme = LIGHT) -> Figure:
    """Draw mean squared changes of old outputs by task, means over seeds: promised dashed, measured solid.

    What a method does not promise has a solid line alone. Dotted, in the first panel, is the part of the measured
    change that is not of first order, of which the promise says nothing. A panel that no strategy promises is left out.
    """
    names = certified(runs)
    panels = [panel for panel in _PANELS if any(_by_task(runs, name, panel[1]) is not None for name in names)]
    figure = Figure(figsize=(3.5 * len(panels) + 2.2, 3.9), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    tasks = np.arange(1, runs.tasks + 1)
    for axes, (title, promise, measure) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set_facecolor(theme.paper)
        for i, name in enumerate(names):
            colour, marker = theme.lines[i % len(theme.lines)], MARKERS[i % len(MARKERS)]
            promised = _promise(runs, name, promise)
            if promised is not None:
                axes.plot(tasks, promised, "--", color=colour, linewidth=1.6)
            beyond = _by_task(runs, name, _BEYOND) if promise == "promised" and promised is not None else None
            if beyond is not None:
                axes.plot(tasks, beyond, ":", color=colour, linewidth=1.4)
            measured = _by_task(runs, name, measure)
            if measured is not None:
                axes.plot(tasks, measured, color=colour, marker=marker, markersize=4.5, linewidth=1.8)
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, color=theme.ink, fontsize=10.5, loc="left")
        axes.set_xlabel("tasks seen", color=theme.ink, fontsize=10)
        tidy(axes, theme)
        plain_ticks(axes)
        axes.tick_params(labelsize=9)
    figure.supylabel("mean squared change", color=theme.ink, fontsize=10)
    lines = [
        Line2D([], [], color=theme.lines[i % len(theme.lines)], marker=MARKERS[i % len(MARKERS)], label=name)
        for i, name in enumerate(names)
    ]
    lines += [
        Line2D([], [], color=theme.ink, linestyle="-", label="measured"),
        Line2D([], [], color=theme.ink, linestyle="--", label="promised"),
        Line2D([], [], color=theme.ink, linestyle=":", label="beyond first order"),
    ]
    figure.legend(handles=lines, loc="outside right center", frameon=False, labelcolor=theme.ink, fontsize=9)
    return figure


def _promise(runs: Runs, strategy: str, key: str) -> NDArray[np.float64] | None:
    """Return what a strategy promises by task; of stored outputs only those that store gradients promise anything."""
    if key == "stored" and "directions" not in task_frame(runs, strategy):
        return None
    return _by_task(runs, strategy, key)


def _by_task(runs: Runs, strategy: str, key: str) -> NDArray[np.float64] | None:
    """Return a certificate's means over seeds by task; None where no task has it."""
    frame = task_frame(runs, strategy)
    name = f"certificate_{key}"
    return frame[name].to_numpy(np.float64) if name in frame else None
