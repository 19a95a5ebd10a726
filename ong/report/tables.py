"""Records as data frames: one row a run, and one row a strategy with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from ong.metrics import METRICS
from ong.report.columns import COSTS, Column, column, columns
from ong.report.intervals import Estimate, t_interval
from ong.report.records import Record
from ong.report.runs import Runs

__all__ = [
    "best",
    "estimates",
    "every_column",
    "seeds_frame",
    "seeds_text",
    "shown",
    "summary_frame",
    "summary_text",
    "task_frame",
    "wide",
]


def seeds_frame(runs: Runs) -> pd.DataFrame:
    """One row for each strategy and seed, with every metric and cost; strategies by ``ACC``, best first.

    Columns: ``benchmark, strategy, seed``; the metrics in the order of :data:`ong.metrics.METRICS`, then any
    others the records have; ``train_seconds`` (sum over tasks), ``evaluate_seconds`` (sum),
    ``total_seconds``; every diagnostic kept by task, as its :class:`~ong.report.columns.Column` says (the largest
    ``memory_bytes``, the last ``rank``, the mean ``leak`` …); ``needs``.
    """
    return pd.DataFrame([row for rows in _rows(runs).values() for row in rows])


def summary_frame(runs: Runs) -> pd.DataFrame:
    """One row for each strategy, by ``ACC``, best first, with the 95% t-interval over seeds.

    Columns are pairs (quantity, statistic) with statistics ``mean``, ``half_width`` (NaN for a single seed)
    and ``count``, the number of seeds on which the quantity is defined.
    """
    return wide(estimates(runs))


def wide(rows: Mapping[str, Mapping[str, Estimate]]) -> pd.DataFrame:
    """Lay estimates out as :func:`summary_frame` does: by strategy, then by quantity."""
    quantities = list(next(iter(rows.values())))
    return pd.DataFrame(
        [[x for e in row.values() for x in (e.mean, e.half_width, e.count)] for row in rows.values()],
        index=pd.Index(list(rows), name="strategy"),
        columns=pd.MultiIndex.from_product(
            [quantities, ["mean", "half_width", "count"]], names=["quantity", "statistic"]
        ),
    )


@lru_cache(maxsize=16)
def estimates(runs: Runs) -> dict[str, dict[str, Estimate]]:
    """Return for each strategy, by ``ACC``, best first, the interval of every quantity over seeds."""
    return {
        strategy: {key: t_interval(float(row[key]) for row in rows) for key in rows[0] if key not in _NOT_QUANTITIES}
        for strategy, rows in _rows(runs).items()
    }


def shown(runs: Runs, keys: Sequence[str] | None = None) -> list[Column]:
    """Return the columns worth showing: those asked for on which some strategy has a value.

    By default they are those chosen, or all but those on request, such as ``forgetting_first``, which is −BWT.
    """
    usual = runs.choice.columns or [c.key for c in columns(runs).values() if not c.on_request]
    table = estimates(runs).values()
    return [
        column(key, runs)
        for key in (usual if keys is None else keys)
        if any(key in row and row[key].count for row in table)
    ]


def every_column(runs: Runs) -> list[Column]:
    """Return the columns that some strategy has a value in: those shown first, then all others."""
    others = [*columns(runs), *next(iter(estimates(runs).values()))]
    return shown(runs, list(dict.fromkeys([*(c.key for c in shown(runs)), *others])))


def best(runs: Runs, of: Column) -> set[str]:
    """Return the labels of the strategies whose mean is best as written, references (joint, scratch) not competing."""
    table, references = estimates(runs), runs.references
    return of.best({runs.label(name): row[of.key].mean for name, row in table.items() if name not in references})


def summary_text(runs: Runs, keys: Sequence[str] | None = None) -> pd.DataFrame:
    """The summary as it is printed: headings for columns, ``mean ± half-width`` in the cells.

    A mean over fewer seeds than the strategy has says so, as in ``0.95 ± 0.01 (n=3)``.
    """
    chosen = shown(runs, keys)
    rows = []
    for strategy, row in estimates(runs).items():
        seeds = len(runs.of(strategy))
        cells = {"Strategy": runs.label(strategy), "Seeds": str(seeds)}
        for c in chosen:
            short = f" (n={row[c.key].count})" if 0 < row[c.key].count < seeds and c.key not in COSTS else ""
            cells[c.title] = c.text(row[c.key]) + short
        cells["Needs"] = runs.needs(strategy)
        rows.append(cells)
    frame = pd.DataFrame(rows)
    return frame if frame["Needs"].any() else frame.drop(columns="Needs")


def seeds_text(runs: Runs) -> pd.DataFrame:
    """Every seed's values as they are printed."""
    frame = seeds_frame(runs)
    text = pd.DataFrame({"Strategy": frame["strategy"].map(runs.label), "Seed": frame["seed"].astype(str)})
    for c in shown(runs):
        text[c.title] = [c.write(value) for value in frame[c.key]]
    return text


def task_frame(runs: Runs, strategy: str) -> pd.DataFrame:
    """One row for each task, means over a strategy's seeds.

    Columns: ``task``; ``before`` R[−1, j]; ``learned`` R[j, j]; ``final`` R[T−1, j]; ``change``
    final − learned; ``train_seconds`` where it was kept by task; then every diagnostic kept by task.
    """
    records = runs.of(strategy)
    of_tasks: dict[str, list[np.ndarray]] = {}
    for record in records:
        r = record.matrix
        learned = np.diagonal(r.after)
        rows = {"before": r.before, "learned": learned, "final": r.after[-1], "change": r.after[-1] - learned}
        seconds = record.timing.train_seconds
        if len(seconds) == r.tasks:
            rows["train_seconds"] = np.array(seconds, dtype=np.float64)
        rows |= {name: np.array(values) for name, values in record.by_task.items()}
        for name, values in rows.items():
            of_tasks.setdefault(name, []).append(values)
    means = {name: [_mean(column) for column in zip(*seeds, strict=True)] for name, seeds in of_tasks.items()}
    frame = pd.DataFrame({"task": range(runs.tasks)} | means)
    return frame.dropna(axis="columns", how="all")


_NOT_QUANTITIES = ("benchmark", "strategy", "seed", "needs")


def _rows(runs: Runs) -> dict[str, list[dict[str, str | int | float]]]:
    """Return each strategy's rows of :func:`seeds_frame`; all have the same keys."""
    metrics = list(dict.fromkeys([*METRICS, *(name for record in runs.records for name in record.metrics)]))
    measured = dict.fromkeys(name for record in runs.records for name in record.by_task)
    known = [key for key in columns(runs) if key in measured or key in COSTS]
    by_task = [column(key, runs) for key in dict.fromkeys([*known, *measured]) if key != "train_seconds"]
    return {strategy: [_row(record, metrics, by_task) for record in runs.of(strategy)] for strategy in runs.strategies}


def _row(record: Record, metrics: Sequence[str], by_task: Sequence[Column]) -> dict[str, str | int | float]:
    return {
        "benchmark": record.benchmark_name,
        "strategy": record.strategy_name,
        "seed": record.seed,
        **{name: _float(record.metrics.get(name)) for name in metrics},
        "train_seconds": _total(record.timing.train_seconds),
        "evaluate_seconds": _total(record.timing.evaluate_seconds),
        "total_seconds": _float(record.timing.total_seconds),
        **{c.key: _OVER[c.over](record.by_task.get(c.key, [])) for c in by_task},
        "needs": "; ".join(record.needs),
    }


def _float(value: float | None) -> float:
    return math.nan if value is None else value


def _defined(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


def _mean(values: Sequence[float]) -> float:
    defined = _defined(values)
    return math.fsum(defined) / len(defined) if defined else math.nan


def _last(values: Sequence[float]) -> float:
    defined = _defined(values)
    return defined[-1] if defined else math.nan


def _largest(values: Sequence[float]) -> float:
    return max(_defined(values), default=math.nan)


_OVER = {"mean": _mean, "last": _last, "max": _largest}


def _total(seconds: Sequence[float | None]) -> float:
    known = [value for value in seconds if value is not None]
    return math.fsum(known) if known else math.nan
