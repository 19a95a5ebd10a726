"""Records in the terminal: the summary that `ong run` ends with, and one record in full."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ong.metrics import Metric
from ong.report.columns import MISSING, column, columns, number
from ong.report.document import Document
from ong.report.documents import document
from ong.report.reading import group
from ong.report.records import BaseRecord, Failure, HistoryRecord, Record
from ong.report.runs import HistoryRuns, Runs, flatten
from ong.report.tables import best, shown, summary_text, task_frame
from ong.report.text import printable

__all__ = ["print_record", "print_summary", "tell_left_out"]

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
    "space_left",
    "rank",
)


def print_summary(
    records: Iterable[Record | HistoryRecord],
    console: Console,
    failures: Iterable[Failure] = (),
    metrics: Sequence[Metric] = (),
) -> None:
    """Print one table for each benchmark: mean ± 95% t-interval over seeds, best in bold, failed runs below.

    Columns that do not fit the console's width are left out, the least important first, and named below the table.

    Raises:
        UserError: if the records cannot be compared; see :func:`ong.report.reading.group`.
    """
    for runs in group(records, failures, metrics=metrics):
        if isinstance(runs, Runs):
            table, left_out = _summary_table(runs, console)
            console.print(table)
            tell_left_out(left_out, console)
        else:
            _print_document(document(runs), console)
        for failure in runs.failures:
            where = f" at {failure.where}" if failure.where else ""
            line = f"failed: {failure.strategy}, seed {failure.seed}{where}: {failure.message}"
            console.print(Text(printable(line), style="red"))


def _print_document(found: Document, console: Console) -> None:
    unbounded = console.options.update_width(10_000)
    dropped: tuple[str, ...] = ()
    for count in range(len(found.summary.droppable) + 1):
        dropped = found.summary.droppable[:count]
        table = _document_table(found, dropped)
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    console.print(table)
    tell_left_out(dropped, console)
    console.print(Text(printable(found.summary.lead), style="dim"))
    for finding in found.findings:
        console.print(Text(printable(finding), style="yellow"))


def tell_left_out(titles: Sequence[str], console: Console) -> None:
    """Name the columns that a table has no room for."""
    if titles:
        console.print(Text(printable(f"not shown: {', '.join(titles)}"), style="dim"))


def _document_table(found: Document, dropped: Sequence[str]) -> Table:
    summary = found.summary
    table = Table(title=Text(printable(found.benchmark)), box=box.SIMPLE_HEAD, title_justify="left")
    frame = summary.frame.drop(columns=list(dropped))
    for name in frame.columns:
        table.add_column(str(name), justify="left" if name in summary.text else "right", no_wrap=True)
    for row in frame.itertuples(index=False, name=None):
        cells = zip(frame.columns, map(str, row), strict=True)
        bold = [str(row[0]) in summary.best.get(str(name), ()) for name in frame.columns]
        table.add_row(
            *(Text(printable(cell), style="bold" if best else "") for (_, cell), best in zip(cells, bold, strict=True))
        )
    return table


def print_record(record: Record | HistoryRecord, console: Console) -> None:
    """Print one record: R and diagnostics by task, or the tables of its kind; then metrics and the recipe."""
    title = f"{record.benchmark_name} · {record.strategy_name} · seed {record.seed}"
    console.print(Text(printable(title), style="bold"))
    if record.strategy.get("summary"):
        console.print(Text(printable(str(record.strategy["summary"])), style="dim"))
    if isinstance(record, Record):
        for table in _matrix_tables(record, console.width):
            console.print(table)
        console.print(_metrics_table(record))
        runs = Runs(record.benchmark_name, (record,))
        for table in _tasks_tables(runs, record.strategy_name, console.width):
            console.print(table)
    else:
        found = document(HistoryRuns(record.benchmark_name, record.kind, (record,)))
        console.print(_metrics_table(record))
        console.print(_history_table(record))
        _print_document(found, console)
    recipe = Table(title="Recipe", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    for name, part in (("benchmark", record.benchmark), ("strategy", record.strategy)):
        for key, value in flatten(part, name).items():
            recipe.add_row(Text(printable(key), style="dim"), Text(printable(str(value))))
    console.print(recipe)


def _summary_table(runs: Runs, console: Console) -> tuple[Table, list[str]]:
    """Return the table, and the titles of columns that it has no room for."""
    unbounded = console.options.update_width(10_000)
    own = [key for key, known in columns(runs).items() if not known.on_request and key not in BY_IMPORTANCE]
    asked = [metric.name for metric in runs.metrics]
    order = dict.fromkeys([*BY_IMPORTANCE[:1], *asked, *BY_IMPORTANCE[1:2], *own, *BY_IMPORTANCE[2:]])
    keep = [c.key for c in shown(runs, [*order])]
    while True:
        keys = [c.key for c in shown(runs) if c.key in keep]
        table = _styled(runs, keys)
        if len(keep) <= 1 or console.measure(table, options=unbounded).minimum <= console.width:
            return table, [c.title for c in shown(runs) if c.key not in keys]
        keep.pop()


def _styled(runs: Runs, keys: Sequence[str]) -> Table:
    frame = summary_text(runs, keys)
    bold = {c.title: best(runs, c) for c in shown(runs, keys)}
    table = Table(
        title=Text(printable(f"{runs.benchmark}, {runs.tasks} tasks")), box=box.SIMPLE_HEAD, title_justify="left"
    )
    for heading in frame.columns:
        longest = max(len(heading), *(len(str(cell)) for cell in frame[heading]))
        table.add_column(
            Text(heading),
            justify="left" if heading in ("Strategy", "Needs") else "right",
            min_width=None if heading == "Needs" else longest,  # only needs may wrap; numbers stay whole
        )
    for cells in frame.to_dict("records"):
        strategy = str(cells["Strategy"])
        table.add_row(
            *(
                Text(printable(str(cell)), style="bold" if strategy in bold.get(str(key), ()) else "")
                for key, cell in cells.items()
            )
        )
    return table


def _matrix_tables(record: Record, width: int) -> Iterator[Table]:
    """Yield R: with three digits where that fits, else in whole per cent, some tasks at a time if there are many."""
    tasks = record.matrix.tasks
    whole = 7 + 6 * tasks > width
    at_once = max(1, (width - 7) // 3) if whole else tasks
    title = "Accuracy on task (column) after training task (row)" + (", in %" if whole else "")
    for start in range(0, tasks, at_once):
        table = Table(
            title=None if start else title, box=None, title_justify="left", padding=(0, 0) if whole else (0, 1, 0, 0)
        )
        table.add_column("", style="dim", justify="right")
        some = range(start, min(start + at_once, tasks))
        for j in some:
            table.add_column(str(j), justify="right", min_width=3 if whole else 5)
        for t, row in enumerate(record.matrix.values):
            cells = [
                Text(
                    number(100 * float(row[j]), 0) if whole else number(float(row[j])), _shade(row[j], bold=j == t - 1)
                )
                for j in some
            ]
            table.add_row("before " if t == 0 else f"{t - 1} ", *cells)
        yield table


def _shade(value: float, *, bold: bool) -> str:
    """Shade from white (0) to blue (1), with ink that stays legible; the task just learned is bold."""
    if math.isnan(value):
        return "dim"
    red, green, blue = (round(255 + value * (deep - 255)) for deep in (8, 81, 156))
    ink = "white" if value > 0.55 else "black"
    return f"{'bold ' if bold else ''}{ink} on rgb({red},{green},{blue})"


def _metrics_table(record: BaseRecord) -> Table:
    table = Table(title="Metrics", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    for name, value in record.metrics.items():
        text = MISSING if value is None else number(value, 4) if abs(value) >= 0.001 else _scientific(value)
        table.add_row(Text(printable(name)), Text(text, justify="right"), Text(column(name).formula, style="dim"))
    return table


def _scientific(value: float) -> str:
    return "0" if value == 0 else f"{value:.3e}".replace("-", "−")


def _history_table(record: HistoryRecord) -> Table:
    """Show the plain lists of numbers of a history, one row an epoch."""
    columns = {
        name: values
        for name, values in record.history.items()
        if isinstance(values, list) and all(x is None or isinstance(x, int | float) for x in values)
    }
    table = Table(title="History", box=box.SIMPLE_HEAD, title_justify="left")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(MISSING if x is None else str(x) if isinstance(x, int) else f"{x:.4g}" for x in row))
    return table


def _tasks_tables(runs: Runs, strategy: str, width: int) -> Iterator[Table]:
    frame = task_frame(runs, strategy)
    names = [str(name) for name in frame.columns if name != "task"]
    at_once = max(1, (width - 6) // 14)
    for start in range(0, len(names), at_once):
        some = names[start : start + at_once]
        title = None if start else "By task"
        table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
        for name in ("task", *some):
            table.add_column(Text(printable(name.replace("_", " "))), justify="right")
        for cells in frame.to_dict("records"):
            table.add_row(str(cells["task"]), *(column(name, runs).write(float(cells[name])) for name in some))
        yield table
