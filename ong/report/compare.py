"""Strategies against one of them, paired by seed."""

from __future__ import annotations

import math

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ong.errors import UnknownNameError, UserError
from ong.report.columns import MISSING, Column, column, metric_columns
from ong.report.intervals import Estimate, t_interval
from ong.report.records import Record
from ong.report.runs import Runs
from ong.report.terminal import tell_left_out
from ong.report.text import printable

__all__ = ["differences", "print_differences"]

KEYS = ("ACC", "BWT", "learning_accuracy", "forgetting", "FWT")
"""In the order in which a narrow terminal keeps them; metrics of one's own come after the first two."""

_RELATIVE = ("intransigence", "recovered")
"""Metrics that compare with other strategies themselves."""


def differences(runs: Runs, baseline: str) -> dict[str, dict[str, Estimate]]:
    """Return what each other strategy has more than the baseline, by metric: the 95% t-interval over shared seeds.

    Runs of one seed see the same stream, net and order of examples, so that their difference varies less than either.
    Runs of another recipe for the benchmark are not paired.

    Raises:
        UnknownNameError: no run of the baseline.
        UserError: no other strategy shares a seed with it.
    """
    if baseline not in runs.strategies:
        raise UnknownNameError(f"strategy in the runs of {runs.benchmark}", baseline, runs.strategies)
    own, keys = {record.seed: record for record in runs.of(baseline)}, _keys(runs)
    found = {}
    for strategy in (name for name in runs.strategies if name != baseline):
        pairs = [(record, own[record.seed]) for record in runs.of(strategy) if record.seed in own]
        pairs = [(record, other) for record, other in pairs if record.is_of_same_benchmark(other)]
        if pairs:
            found[strategy] = {
                key: t_interval(_value(record, key) - _value(other, key) for record, other in pairs) for key in keys
            }
    if not found:
        raise UserError(f"{runs.benchmark}: no other strategy has a run of the same seed and recipe as '{baseline}'")
    return found


def _keys(runs: Runs) -> list[str]:
    own = [c.key for c in metric_columns(runs) if not c.on_request and c.key not in (*KEYS, *_RELATIVE)]
    return [*KEYS[:2], *own, *KEYS[2:]]


def _value(record: Record, key: str) -> float:
    value = record.metrics.get(key)
    return math.nan if value is None else float(value)


def print_differences(runs: Runs, baseline: str, console: Console) -> None:
    """Print the differences as a table; those whose interval leaves out 0 are bold.

    Columns that do not fit the console's width are left out, the last ones first, and named below the table.
    """
    found = differences(runs, baseline)
    keys = [key for key in _keys(runs) if any(row[key].count for row in found.values())]
    left_out: list[str] = []
    unbounded = console.options.update_width(10_000)
    while len(keys) > 1 and console.measure(_table(found, runs, keys), options=unbounded).maximum > console.width:
        left_out.insert(0, column(keys.pop(), runs).title)
    title = (
        f"{printable(runs.benchmark)}: differences from {printable(baseline)}, paired by seed, mean ± 95% t-interval"
    )
    console.print(Text(title, style="italic"))
    console.print(_table(found, runs, keys))
    tell_left_out(left_out, console)


def _table(found: dict[str, dict[str, Estimate]], runs: Runs, keys: list[str]) -> Table:
    shown = [column(key, runs) for key in keys]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Strategy", no_wrap=True)
    for title in ("Seeds", *(c.title for c in shown)):
        table.add_column(Text(title), justify="right", no_wrap=True)
    for strategy, row in found.items():
        table.add_row(
            Text(printable(strategy)), str(max(row[key].count for key in keys)), *(_cell(row[c.key], c) for c in shown)
        )
    return table


def _cell(estimate: Estimate, of: Column) -> Text:
    if not estimate.count:
        return Text(MISSING)
    mean = f"{'−' if estimate.mean < 0 else '+'}{of.write(abs(estimate.mean))}"
    if math.isnan(estimate.half_width):
        return Text(mean)
    sure = abs(estimate.mean) > estimate.half_width
    return Text(f"{mean} ± {of.write(estimate.half_width)}", style="bold" if sure else "")
