"""What theory promises of a method's old outputs, beside what was measured: a figure by task and a table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ong.report.choice import PAPERS
from ong.report.columns import columns
from ong.report.figures import LIGHT, Theme, figure_text, painted, plain_ticks, tidy
from ong.report.runs import Runs
from ong.report.tables import summary_text, task_frame

__all__ = ["PROMISED", "Promises", "certificate_text", "certified", "promised_and_measured", "promises"]

PROMISED = "promised and measured"
"""The figure's name."""

_PANELS = (
    ("all logits of old examples", "promised", "measured"),
    ("2 KL of old examples' outputs", "divergence", "divergence_measured"),
    ("true logit of old test examples", "distance", "distance_measured"),
    ("true logit of stored examples,\nsince the end of their task", "stored", "stored_measured"),
)

Values = NDArray[np.float64] | None


@dataclass(frozen=True)
class Promises:
    """One strategy's mean squared changes by task, means over seeds; None where it has none.

    ``beyond`` is the part of the measured change that is not of first order, of which the promise says nothing.
    """

    promised: Values
    measured: Values
    beyond: Values


_BEYOND = "nonlinear"
_OWN = ("promised", "divergence", "distance")  # what only a method with a metric or directions has


def certified(runs: Runs) -> list[str]:
    """Return the strategies whose method promises something of old outputs, the best first."""
    return [name for name in runs.strategies if any(_by_task(runs, name, key) is not None for key in _OWN)]


def certificate_text(runs: Runs) -> pd.DataFrame:
    """Return the certificates of these strategies as they are printed, means over tasks."""
    keys = [key for key in columns(runs) if key.startswith("certificate_")]
    frame = summary_text(runs, keys).drop(columns="Needs", errors="ignore")
    return frame[frame["Strategy"].isin(map(runs.label, certified(runs)))].reset_index(drop=True)


def promises(runs: Runs) -> dict[str, dict[str, Promises]]:
    """Return by kind of output what each of these strategies promises; kinds that none promises are left out."""
    names = certified(runs)
    return {
        title: {name: _promises(runs, name, promise, measure) for name in names}
        for title, promise, measure in _PANELS
        if any(_by_task(runs, name, promise) is not None for name in names)
    }


def _promises(runs: Runs, strategy: str, promise: str, measure: str) -> Promises:
    promised = _promise(runs, strategy, promise)
    beyond = _by_task(runs, strategy, _BEYOND) if promise == "promised" and promised is not None else None
    return Promises(promised, _by_task(runs, strategy, measure), beyond)


def promised_and_measured(runs: Runs, theme: Theme = LIGHT) -> Figure:
    """Draw mean squared changes of old outputs by task, means over seeds: promised dashed, measured solid.

    What a method does not promise has a solid line alone. Dotted, in the first panel, is the part of the measured
    change that is not of first order.
    """
    painter, panels, paper = painted(runs, theme), promises(runs), PAPERS[runs.choice.paper]
    names = runs.drawn(certified(runs))
    side = 3.5 if paper.beside else paper.width
    shape = (1, len(panels)) if paper.beside else (len(panels), 1)
    figure = Figure(
        figsize=(side * shape[1] + (2.2 if paper.beside else 0.0), (3.9 if paper.beside else 2.2) * shape[0]),
        layout="constrained",
        facecolor=theme.paper,
    )
    FigureCanvasAgg(figure)
    tasks = np.arange(1, runs.tasks + 1)
    for axes, (title, lines) in zip(figure.subplots(*shape, squeeze=False).flat, panels.items(), strict=True):
        axes.set_facecolor(theme.paper)
        for name in names:
            found, style = lines[name], painter[name]
            for line, values in (("--", found.promised), (":", found.beyond)):
                if values is not None:
                    axes.plot(tasks, values, line, color=style["color"], linewidth=0.9 * style["linewidth"])
            if found.measured is not None:
                axes.plot(tasks, found.measured, **style | {"linestyle": "-"})
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(title, color=theme.ink, fontsize=paper.font + 1, loc="left")
        axes.set_xlabel("tasks seen", color=theme.ink, fontsize=paper.font + 0.5)
        tidy(axes, theme)
        plain_ticks(axes)
        axes.tick_params(labelsize=paper.font - 0.5)
    figure.supylabel("mean squared change", color=theme.ink, fontsize=paper.font + 0.5)
    handles = [Line2D([], [], **painter[n] | {"linestyle": "-"}, label=figure_text(runs.label(n))) for n in names]
    handles += [
        Line2D([], [], color=theme.ink, linestyle="-", label="measured"),
        Line2D([], [], color=theme.ink, linestyle="--", label="promised"),
        Line2D([], [], color=theme.ink, linestyle=":", label="beyond first order"),
    ]
    figure.legend(
        handles=handles, loc="outside right center" if paper.beside else "outside lower center", frameon=False,
        labelcolor=theme.ink, fontsize=paper.font - 0.5, ncols=1 if paper.beside else 2,
    )  # fmt: skip
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
