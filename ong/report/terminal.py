"""Records in the terminal: the summary that `ong run` ends with, and one record in full."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ong.metrics import FORMULAS
from ong.report.columns import MISSING, column, number
from ong.report.records import Failure, Record
from ong.report.runs import Runs, flatten, group
from ong.report.tables import best, shown, summary_text, task_frame

__all__ = ["print_record", "print_summary"]

# In the order in which a narrow terminal keeps them; they are printed in the order of every other table.
BY_IMPORTANCE = (
    "ACC",
    "BWT",
    "learning_accuracy",
    "recovered",
    "train_seconds",
    "FWT",
    "forgetting",
    "intransigence",
    "memory_bytes",
    "descent_cosine",
    "leak",
)


def print_summary(records: Iterable[Record], console: Console, failures: Iterable[Failure] = ()) -> None:
    """Print one table for each benchmark: mean ± 95% t-interval over seeds, best in bold, failed runs below.

    Columns that do not fit the console's width are left out, the least important first.

    Raises:
        UserError: if the records cannot be compared; see :func:`ong.report.runs.group`.
    """
    for runs in group(records, failures):
        table = _summary_table(runs, console)
        console.print(table)
        for failure in runs.failures:
            where = f" in task {failure.task}" if failure.task is not None else ""
            line = f"failed: {failure.strategy}, seed {failure.seed}{where}: {failure.message}"
            console.print(Text(line, style="red"))


def print_record(record: Record, console: Console) -> None:
    """Print one record: R with the row before training, metrics with formulas, diagnostics by task."""
    runs = Runs(record.benchmark_name, (record,))
    title = f"{record.benchmark_name} · {record.strategy_name} · seed {record.seed}"
    console.print(Text(title, style="bold"))
    if record.strategy.get("summary"):
        console.print(Text(str(record.strategy["summary"]), style="dim"))
    console.print(_matrix_table(record))
    console.print(_metrics_table(record))
    console.print(_tasks_table(runs, record.strategy_name))
    recipe = Table(title="Recipe", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    for name, part in (("benchmark", record.benchmark), ("strategy", record.strategy)):
        for key, value in flatten(part, name).items():
            recipe.add_row(Text(key, style="dim"), Text(str(value)))
    console.print(recipe)


def _summary_table(runs: Runs, console: Console) -> Table:
    unbounded = console.options.update_width(10_000)
    keep = [c.key for c in shown(runs, BY_IMPORTANCE)]
    while True:
        keys = [c.key for c in shown(runs) if c.key in keep]
        table = _styled(runs, keys)
        if len(keep) <= 1 or console.measure(table, options=unbounded).minimum <= console.width:
            return table
        keep.pop()


def _styled(runs: Runs, keys: Sequence[str]) -> Table:
    frame = summary_text(runs, keys)
    columns = shown(runs, keys)
    bold = {c.title: best(runs, c) for c in columns}
    table = Table(title=f"{runs.benchmark}, {runs.tasks} tasks", box=box.SIMPLE_HEAD, title_justify="left")
    for heading in frame.columns:
        longest = max(len(heading), *(len(str(cell)) for cell in frame[heading]))
        table.add_column(
            heading,
            justify="left" if heading in ("Strategy", "Needs") else "right",
            min_width=None if heading == "Needs" else longest,  # only needs may wrap; numbers stay whole
        )
    for cells in frame.to_dict("records"):
        strategy = str(cells["Strategy"])
        table.add_row(
            *(
                Text(str(cell), style="bold" if strategy in bold.get(str(key), ()) else "")
                for key, cell in cells.items()
            )
        )
    return table


def _matrix_table(record: Record) -> Table:
    table = Table(title="Accuracy on task (column) after training task (row)", box=None, title_justify="left")
    table.add_column("", style="dim", justify="right")
    for j in range(record.matrix.tasks):
        table.add_column(str(j), justify="right")
    for t, row in enumerate(record.matrix.values):
        cells = [Text(number(float(x)), style=_shade(float(x), bold=j == t - 1)) for j, x in enumerate(row)]
        table.add_row("before" if t == 0 else str(t - 1), *cells)
    return table


def _shade(value: float, *, bold: bool) -> str:
    """Shade from white (0) to blue (1), with ink that stays legible; the task just learned is bold."""
    if math.isnan(value):
        return "dim"
    red, green, blue = (round(255 + value * (deep - 255)) for deep in (8, 81, 156))
    ink = "white" if value > 0.55 else "black"
    return f"{'bold ' if bold else ''}{ink} on rgb({red},{green},{blue})"


def _metrics_table(record: Record) -> Table:
    table = Table(title="Metrics", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    for name, value in record.metrics.items():
        text = MISSING if value is None else number(value, 4)
        table.add_row(name, Text(text, justify="right"), Text(FORMULAS.get(name, ""), style="dim"))
    return table


def _tasks_table(runs: Runs, strategy: str) -> Table:
    frame = task_frame(runs, strategy)
    table = Table(title="By task", box=box.SIMPLE_HEAD, title_justify="left")
    for name in frame.columns:
        table.add_column(name.replace("_", " "), justify="right")
    for cells in frame.to_dict("records"):
        task = str(cells.pop("task"))
        table.add_row(task, *(column(str(name)).write(float(value)) for name, value in cells.items()))
    return table
