"""How records and results show themselves in Jupyter."""

from __future__ import annotations

import html
from collections.abc import Iterable

from ong.report.columns import column
from ong.report.document import rows_frame
from ong.report.heat_tables import SHADES, heat_table
from ong.report.records import HistoryRecord, Record
from ong.report.runs import HistoryRuns, Runs
from ong.report.tables import summary_text
from ong.report.text import printable

__all__ = ["record_html", "results_html"]


def results_html(groups: Iterable[Runs | HistoryRuns]) -> str:
    """Return a table of strategies for each benchmark."""
    return "".join(
        f"<h4>{_safe(runs.benchmark)}</h4>"
        f"{(summary_text(runs) if isinstance(runs, Runs) else rows_frame(runs)).to_html(index=False)}"
        for runs in groups
    )


def record_html(record: Record | HistoryRecord) -> str:
    """Return a record's name and metrics, and its R as a heat map."""
    title = _safe(f"{record.benchmark_name} · {record.strategy_name} · seed {record.seed}")
    metrics = "".join(
        f"<tr><th>{_safe(column(name).title)}</th><td>{column(name).write(value)}</td>"
        f"<td><code>{html.escape(column(name).formula)}</code></td></tr>"
        for name, value in record.metrics.items()
        if value is not None
    )
    matrix = _matrix(record) if isinstance(record, Record) else ""
    return f"<h4>{title}</h4><table>{metrics}</table>{matrix}"


def _matrix(record: Record) -> str:
    rows = heat_table(Runs(record.benchmark_name, (record,)), record.strategy_name).rows
    head = "".join(f"<th>{task}</th>" for task in range(record.matrix.tasks))
    body = "".join(
        f"<tr><th>{heading}</th>{''.join(_cell(text, shade) for text, shade in cells)}</tr>" for heading, cells in rows
    )
    return f"<p>R: accuracy on task (column) after task (row)</p><table><tr><th></th>{head}</tr>{body}</table>"


def _cell(text: str, shade: int | None) -> str:
    style = "" if shade is None else f' style="background:{SHADES[shade][0]};color:{SHADES[shade][1]}"'
    return f"<td{style}>{text}</td>"


def _safe(text: str) -> str:
    return html.escape(printable(text))
