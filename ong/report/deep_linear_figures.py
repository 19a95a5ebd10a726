"""Figures of deep linear benchmarks."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ong.report.figures import Theme, band, new_axes, tidy
from ong.report.looks import MARKERS
from ong.report.runs import HistoryRuns

__all__ = ["theory_curves", "training_curves"]

BEYOND = 1e3
"""Losses so many times the first one are cut off: a blow-up has no shape worth seeing."""


def training_curves(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw test loss over epochs, the floor and the target."""
    figure, axes = new_axes((8.6, 4.6), theme)
    longest = 1
    for i, name in enumerate(runs.strategies):
        records = runs.of(name)
        losses = np.array([record.history["test_loss"] for record in records], dtype=np.float64)
        epochs = np.array(records[0].history["epoch"])
        longest = max(longest, int(epochs[-1]))
        width = 1.8 + 1.2 * (len(runs.strategies) - 1 - i)  # forms may coincide: the later ones lie on wider lines
        band(axes, epochs, losses, theme.lines[i % len(theme.lines)], MARKERS[i % len(MARKERS)], name, width)
    diagnostics = runs.records[0].diagnostics
    axes.axhline(diagnostics["floor"], color=theme.ink, linewidth=1.2, label="floor ½ tr Σ")
    axes.axhline(diagnostics["target"], color=theme.ink, linewidth=1.0, linestyle=":", label="target")
    axes.set_xscale("function", functions=(np.sqrt, np.square))
    axes.set_xlim(0, longest * 1.02)
    axes.set_xticks([t for t in (0, 1, 2, 3, 5, 10, 20, 40, 80, 160) if t <= longest])
    _label(axes, "epochs", "test loss", theme)
    return figure


def theory_curves(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw the excess of the expected loss over steps, and the slope of (1 − α)²."""
    figure, axes = new_axes((8.6, 4.6), theme)
    lowest, highest, steps = np.inf, 0.0, 1
    for i, name in enumerate(runs.strategies):
        colour = theme.lines[i % len(theme.lines)]
        for record in runs.of(name):
            theory = record.history.get("theory")
            if not theory:
                continue
            excess = np.array([np.nan if x is None else x for x in theory["excess"]], dtype=np.float64)
            beyond = np.flatnonzero(~(excess <= BEYOND * excess[0]))
            shown = excess[: beyond[0] + 1] if beyond.size else excess
            shown = np.minimum(shown, BEYOND * excess[0])
            first = record is runs.of(name)[0]
            width = 1.8 + 1.6 * (len(runs.strategies) - 1 - i)
            axes.plot(shown, color=colour, linewidth=width, label=name if first else None, zorder=3)
            predicted = excess[0] * theory["predicted_rate"] ** np.arange(len(theory["excess"]))
            steps = max(steps, len(shown) - 1)
            lowest, highest = min(lowest, float(predicted[-1])), max(highest, float(excess[0]))
            if theory["blow_up_step"] is not None and theory["blow_up_step"] < len(excess) + 5:
                axes.axvline(theory["blow_up_step"], color=colour, linewidth=1.0, linestyle=":", zorder=1)
    for seed in runs.seeds:
        drawn = [r.history["theory"] for r in runs.records if r.seed == seed and r.history.get("theory")]
        if drawn:
            theory = max(drawn, key=lambda found: len(found["excess"]))
            line = theory["excess"][0] * theory["predicted_rate"] ** np.arange(steps + 1)
            label = f"theory: (1 − α)² = {theory['predicted_rate']:.4g} a step" if seed == runs.seeds[0] else None
            axes.plot(line, color=theme.ink, linestyle=(0, (1, 1.5)), linewidth=1.6, label=label, zorder=4)
            lowest = min(lowest, float(line[-1]))
    axes.set_xlim(0, steps)
    axes.set_ylim(lowest / 3, highest * 30)
    _label(axes, "steps", "expected loss above the floor", theme)
    return figure


def _label(axes: Axes, across: str, up: str, theme: Theme) -> None:
    axes.set_yscale("log")
    tidy(axes, theme)
    axes.minorticks_off()
    axes.set_xlabel(across, color=theme.ink)
    axes.set_ylabel(up, color=theme.ink)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=theme.ink, fontsize=9.5)
