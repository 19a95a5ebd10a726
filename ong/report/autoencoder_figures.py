"""Figures of autoencoder benchmarks: loss over epochs and seconds, reconstructions, damping."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ong.report.autoencoder_races import cpu_clock
from ong.report.figures import Theme, band, new_axes, plain_ticks, tidy
from ong.report.images import unpack
from ong.report.looks import MARKERS
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

__all__ = ["damping_curves", "loss_over_epochs", "loss_over_seconds", "natural", "reconstruction_rows"]

GAP = 2
"""Pixels of paper between images."""

Clock = Callable[[HistoryRecord], Sequence[float]]


def natural(runs: HistoryRuns) -> list[str]:
    """Return the strategies with a damping."""
    return [name for name in runs.strategies if runs.of(name)[0].history["damping"][0] is not None]


def loss_over_epochs(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw training and test loss over epochs, side by side, mean over seeds and a band to the extremes."""
    figure, panels = _loss_panels(runs, lambda record: record.history["epoch"], theme)
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epochs", color=theme.ink)
    return figure


def loss_over_seconds(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw the same over processor seconds of training, from the first epoch on; seconds are means over seeds."""
    figure, panels = _loss_panels(runs, cpu_clock, theme, first=1)
    for axes in panels:
        axes.set_xscale("log")
        plain_ticks(axes)
        axes.set_xlabel("processor seconds", color=theme.ink)
    return figure


def reconstruction_rows(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw test images on top and below them what the nets make of them, a row a strategy; the first seed's."""
    shown = {name: unpack(runs.of(name)[0].diagnostics["reconstructions"]) for name in runs.strategies}
    rows = {"original": shown[runs.strategies[0]][0]} | {name: pair[1] for name, pair in shown.items()}
    count, height, width = rows["original"].shape
    tiles = np.full((len(rows), count, height + GAP, width + GAP), np.nan)
    tiles[:, :, :height, :width] = list(rows.values())
    mosaic = tiles.swapaxes(1, 2).reshape(len(rows) * (height + GAP), -1)[:-GAP, :-GAP]
    tall, wide = (7.0 * side / mosaic.shape[1] for side in mosaic.shape)
    names = 0.2 + 0.09 * max(map(len, rows))  # inches; a layout engine leaves too little beside a fixed aspect
    figure = Figure(figsize=(names + wide + 0.1, tall + 0.2), facecolor=theme.paper)
    FigureCanvasAgg(figure)
    size = figure.get_size_inches()
    axes = figure.add_axes((names / size[0], 0.1 / size[1], wide / size[0], tall / size[1]))
    colours = mpl.colormaps["gray"].with_extremes(bad=theme.paper)
    axes.imshow(np.ma.masked_invalid(mosaic), cmap=colours, vmin=0.0, vmax=1.0, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([(height - 1) / 2 + place * (height + GAP) for place in range(len(rows))], list(rows))
    axes.tick_params(length=0, labelsize=10, colors=theme.ink)
    axes.spines[:].set_visible(False)
    return figure


def damping_curves(runs: HistoryRuns, theme: Theme) -> Figure:
    """Draw λ after every epoch for the strategies that have one."""
    figure, axes = new_axes((8.6, 4.0), theme)
    for name in natural(runs):
        _curve(axes, runs, name, "damping", lambda record: record.history["epoch"], theme, first=0)
    axes.set_yscale("log")
    plain_ticks(axes)
    tidy(axes, theme)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epochs", color=theme.ink)
    axes.set_ylabel("damping λ", color=theme.ink)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, labelcolor=theme.ink, fontsize=9.5)
    return figure


def _loss_panels(runs: HistoryRuns, clock: Clock, theme: Theme, first: int = 0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10.4, 4.4), layout="constrained", facecolor=theme.paper)
    FigureCanvasAgg(figure)
    panels: list[Axes] = list(figure.subplots(1, 2, sharey=True))
    for axes, part, title in zip(panels, ("train", "test"), ("training", "test"), strict=True):
        axes.set_facecolor(theme.paper)
        for name in runs.strategies:
            _curve(axes, runs, name, f"{part}_loss", clock, theme, first)
        level = runs.records[0].diagnostics["mean_image_loss"]
        axes.axhline(level, color=theme.ink, linewidth=1.0, linestyle=":", label="mean image")
        axes.set_yscale("log")
        tidy(axes, theme)
        axes.tick_params(labelsize=9)
        axes.set_title(title, color=theme.ink, fontsize=11, loc="left")
    plain_ticks(panels[0])
    panels[0].set_ylabel("loss, nats an image", color=theme.ink)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, labelcolor=theme.ink, fontsize=9.5)
    return figure, panels


def _curve(axes: Axes, runs: HistoryRuns, name: str, key: str, clock: Clock, theme: Theme, first: int) -> None:
    records = runs.of(name)
    length = min(len(record.history[key]) for record in records)
    values, times = (
        np.array([list(series)[first:length] for series in part], dtype=np.float64)
        for part in ((record.history[key] for record in records), (clock(record) for record in records))
    )
    place = runs.strategies.index(name)
    colour, marker = theme.lines[place % len(theme.lines)], MARKERS[place % len(MARKERS)]
    band(axes, times.mean(axis=0), values, colour, marker, name)
