"""``ong.run``: one run from Python, as ``ong run`` does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ong.errors import UserError
from ong.experiments.jobs import perform
from ong.experiments.memory import read_budget
from ong.experiments.plan import plan
from ong.experiments.progress import Bars
from ong.report.records import HistoryRecord, Record, read_record

__all__ = ["run"]


def run(
    benchmark: str,
    strategy: str,
    seed: int = 0,
    *,
    settings: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    data_root: str | Path | None = None,
    out: str | Path = "runs",
    memory: str | None = None,
    loggers: Sequence[str] = (),
    force: bool = False,
) -> Record | HistoryRecord:
    """Train one strategy on one benchmark and return its record; a finished run is read, an unfinished one resumed.

    Args:
        benchmark: name of a benchmark, or the path of a recipe.
        strategy: name of a strategy, or the path of a recipe.
        seed: seed of the stream, the net's initial weights and the order of the data.
        settings: dotted recipe keys and their values, such as ``{"training.epochs": 1, "optimizer.lr": 0.05}``.
        dataset: replaces the benchmark's data set.
        data_root: where data sets that are not in the package lie.
        out: folder of all runs; this one goes to ``out/BENCHMARK/STRATEGY/seed-S``.
        memory: a budget such as ``"4MB"`` of what is kept from task to task, to which the strategy is sized.
        loggers: names of loggers, such as ``["tensorboard"]``, or ``module:Class``.
        force: repeat a finished run.

    Raises:
        UserError: bad input.
        RuntimeError: the run stopped, such as for a loss that is not finite; finished tasks are kept.
    """
    root = Path(data_root) if data_root is not None else None
    budgets = [read_budget(memory)] if memory is not None else []
    (job,) = plan(
        benchmark, [strategy], [seed], settings, dataset, root, out, force=force, memory=budgets, loggers=loggers
    )
    bars = Bars(job.label)
    try:
        outcome = perform(job, bars)
    finally:
        bars.close()
    if outcome.failure is not None:
        raise (UserError if outcome.wrong else RuntimeError)(outcome.failure)
    return read_record(job.folder.path / "record.json")
