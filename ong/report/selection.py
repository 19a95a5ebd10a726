"""What a :class:`~ong.report.choice.Choice` leaves of benchmarks' runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ong.errors import UserError
from ong.report.choice import Choice
from ong.report.columns import columns
from ong.report.records import HistoryRecord, Record
from ong.report.runs import HistoryRuns, Runs

__all__ = ["choose"]


def choose(groups: Sequence[Runs | HistoryRuns], choice: Choice) -> list[Runs | HistoryRuns]:
    """Return the benchmarks' runs with what is shown of them; a benchmark that has none of the strategies is left out.

    Raises:
        UnknownNameError: no benchmark has such a strategy, or such a column.
        UserError: labels or columns are given for a benchmark that is not a sequence of tasks.
    """
    records = [record for runs in groups for record in runs.records]
    strategies = sorted({record.strategy_name for record in records})
    known = [key for runs in groups for key in columns(runs if isinstance(runs, Runs) else None)]
    choice.check(strategies, known + [key for record in records for key in _quantities(record)])
    found: list[Runs | HistoryRuns] = []
    for runs in groups:
        if isinstance(runs, Runs):
            found.append(replace(runs, choice=choice))
        elif choice.labels or choice.columns:
            raise UserError(f"{runs.benchmark}: labels and columns are for runs over tasks, not for kind {runs.kind}")
        else:
            kept = tuple(r for r in runs.records if not choice.only or r.strategy_name in choice.only)
            found.append(replace(runs, records=kept))
    return [runs for runs in found if runs.strategies]


def _quantities(record: Record | HistoryRecord) -> list[str]:
    return [*record.metrics, *(record.by_task if isinstance(record, Record) else ())]
