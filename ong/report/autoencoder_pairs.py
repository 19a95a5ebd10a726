"""Losses of strategies less those of another one, paired by seed: the test of who learns faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ong.report.autoencoder_races import cpu_clock
from ong.report.columns import number
from ong.report.document import TextTable, interval
from ong.report.intervals import Estimate, t_interval
from ong.report.records import HistoryRecord
from ong.report.runs import HistoryRuns

__all__ = ["Pair", "claims", "pair_of", "pair_table", "pairs"]


@dataclass(frozen=True)
class Pair:
    """A run's losses less those of another run of its seed; below 0 the run is ahead.

    Attributes:
        train: training loss after the last epoch.
        test: test loss likewise.
        in_time: training loss after as many processor seconds as the quicker of both took for all its epochs.
    """

    train: float
    test: float
    in_time: float


def pair_of(record: HistoryRecord, owner: HistoryRecord) -> Pair:
    """Return a run's losses less those of another one; between two epochs a loss counts as a straight line."""
    clocks = [cpu_clock(run) for run in (record, owner)]
    end = min(clock[-1] for clock in clocks)
    own, other = (
        float(np.interp(end, clock, run.history["train_loss"]))
        for clock, run in zip(clocks, (record, owner), strict=True)
    )
    train, test = (record.history[key][-1] - owner.history[key][-1] for key in ("train_loss", "test_loss"))
    return Pair(train, test, own - other)


def pairs(runs: HistoryRuns, name: str, owner: str) -> list[Pair]:
    """Return a pair for each seed for which both strategies have run the same recipe of the benchmark."""
    owners = {record.seed: record for record in runs.of(owner)}
    both = ((record, owners[record.seed]) for record in runs.of(name) if record.seed in owners)
    return [pair_of(record, other) for record, other in both if record.is_of_same_benchmark(other)]


def pair_table(runs: HistoryRuns, names: Sequence[str], owner: str) -> TextTable:
    """Return a table of the differences of strategies from another."""
    rows = []
    for name in (name for name in names if name != owner):
        found = pairs(runs, name, owner)
        rows.append(
            {
                "Strategy": name,
                "Seeds": str(len(found)),
                "Train loss": interval((pair.train for pair in found), _one_place),
                "Test loss": interval((pair.test for pair in found), _one_place),
                "Train loss in equal time": interval((pair.in_time for pair in found), _one_place),
            }
        )
    lead = (
        f"Loss less that of {owner} by the same seed, after the last epoch: mean ± half-width of the 95% t-interval. "
        "Below 0 the strategy is ahead; for certain, where the interval leaves out 0. Equal time: when the quicker of "
        "both had trained all its epochs, in processor seconds."
    )
    return TextTable(f"Against {owner}", lead, pd.DataFrame(rows), ("Strategy",))


def claims(runs: HistoryRuns, natural: Sequence[str], owner: str) -> list[str]:
    """Return what several seeds say of the paper's claim that the natural gradient outperforms another strategy."""
    said = []
    for name in natural:
        found = pairs(runs, name, owner)
        if len(found) > 1:
            epochs, time = (t_interval(values) for values in zip(*((p.train, p.in_time) for p in found), strict=True))
            said.append(
                f"{name} against {owner}, training loss, paired over {len(found)} seeds: {_verdict(epochs)} after the "
                f"last epoch, {_verdict(time)} in equal processor time."
            )
    return said


def _verdict(estimate: Estimate) -> str:
    sure = abs(estimate.mean) > estimate.half_width
    word = "not to be told apart" if not sure else "lower" if estimate.mean < 0 else "higher"
    return f"{word} ({_one_place(estimate.mean)} ± {_one_place(estimate.half_width)})"


def _one_place(number_: float) -> str:
    return number(number_, 1)
