"""Accuracy matrices for other programs: one CSV in long form, or one NPZ of arrays."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ong.report.runs import HistoryRuns, Runs
from ong.report.text import for_csv

__all__ = ["csv_bytes", "matrices_csv", "matrices_frame", "matrices_npz"]


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """Return a frame as a CSV file at full precision; names that a spreadsheet would compute are quoted."""
    safe = frame.map(lambda cell: for_csv(cell) if isinstance(cell, str) else cell)
    return safe.to_csv(index=False, lineterminator="\n").encode("utf-8")


def matrices_frame(groups: Sequence[Runs | HistoryRuns]) -> pd.DataFrame:
    """One row for each entry of R: ``benchmark, strategy, seed, trained, task, accuracy``.

    ``trained`` is the task trained last, −1 before training; what was not measured is left out.
    """
    parts = []
    for runs in (runs for runs in groups if isinstance(runs, Runs)):
        for record in (record for name in runs.strategies for record in runs.of(name)):
            values = record.matrix.values
            rows, tasks = np.indices(values.shape)
            part = pd.DataFrame({"trained": rows.ravel() - 1, "task": tasks.ravel(), "accuracy": values.ravel()})
            for place, key in enumerate(("benchmark", "strategy", "seed")):
                part.insert(place, key, (runs.benchmark, record.strategy_name, record.seed)[place])
            parts.append(part.dropna())
    columns = ["benchmark", "strategy", "seed", "trained", "task", "accuracy"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def matrices_csv(groups: Sequence[Runs | HistoryRuns]) -> bytes:
    """Return :func:`matrices_frame` as a CSV file."""
    return csv_bytes(matrices_frame(groups))


def matrices_npz(groups: Sequence[Runs | HistoryRuns]) -> bytes:
    """Return every R, of shape [T + 1, T] with the row before training, under ``BENCHMARK/STRATEGY/seed-S``."""
    arrays = {
        f"{runs.benchmark}/{record.strategy_name}/seed-{record.seed}": record.matrix.values
        for runs in groups
        if isinstance(runs, Runs)
        for name in runs.strategies
        for record in runs.of(name)
    }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
