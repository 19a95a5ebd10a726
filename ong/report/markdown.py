"""A report in Markdown: the summary, every seed's values, figures, formulas, failures, published figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from ong.report.certificates import PROMISED, certificate_text, certified
from ong.report.columns import metric_columns
from ong.report.costs import ABOUT, costs
from ong.report.document import Document, TextTable
from ong.report.published import published
from ong.report.records import Failure
from ong.report.runs import MOST_LINES, Runs
from ong.report.tables import best, seeds_text, shown, summary_text
from ong.report.text import for_markdown, printable
from ong.report.words import why, won_back

__all__ = ["markdown"]


FigurePath = Callable[[Runs | Document, str | None], str]


def markdown(groups: Sequence[Runs | Document], figure_path: FigurePath | None = None) -> str:
    """Write the report of one or several benchmarks.

    Args:
        groups: the benchmarks' runs or documents.
        figure_path: gives the path of the PNG of a strategy's heat map (of a document's drawing by its name), or of the
            curves for None; without it the report has no figures.
    """
    continual = [runs for runs in groups if isinstance(runs, Runs)]
    title = "Continual learning" if len(continual) == len(groups) else "Report"
    parts = [f"# {title}: " + ", ".join(for_markdown(runs.benchmark) for runs in groups)]
    for runs in groups:
        parts += _section(runs, figure_path) if isinstance(runs, Runs) else _document(runs, figure_path)
    if not continual:
        return "\n\n".join(parts) + "\n"
    columns = {c.key: c for runs in continual for c in (*metric_columns(runs), *shown(runs))}
    formulas = [f"| {_code(c.key)} | {_code(c.formula)} | {for_markdown(c.about)} |" for c in columns.values()]
    parts += ["## Formulas", "\n".join(["| name | definition | what it is |", "|---|---|---|", *formulas])]
    parts.append("R[t, j] is the accuracy on task j after training task t; row −1 is before training.")
    return "\n\n".join(parts) + "\n"


def _document(document: Document, figure_path: FigurePath | None) -> list[str]:
    about = str(document.runs.records[0].benchmark.get("summary", ""))
    seeds = ", ".join(map(str, document.runs.seeds))
    parts = [
        f"## {for_markdown(document.benchmark)}",
        f"{for_markdown(about)}. Seeds {seeds}.",
        *_titled(document.summary, level=0),
    ]
    parts += [f"> {for_markdown(note)}" for note in document.notes()]
    for part in document.parts:
        if isinstance(part, TextTable):
            parts += _titled(part)
        elif figure_path:
            path = figure_path(document, part.name)
            parts += [f"### {part.title}", for_markdown(part.lead), f"![{for_markdown(part.title)}]({path})"]
    parts += _failures(document.failures)
    formulas = [f"| {_code(name)} | {_code(formula)} |" for name, formula in document.formulas.items()]
    return [*parts, "### Formulas", "\n".join(["| name | definition |", "|---|---|", *formulas])]


def _titled(table: TextTable, level: int = 3) -> list[str]:
    heading = [f"{'#' * level} {table.title}"] if level else []
    return [*heading, for_markdown(table.lead), _table(table.frame, table.text)]


def _code(text: str) -> str:
    """Return text as code in a cell of a table, where only what ends either has a meaning."""
    return f"`{printable(text).replace('`', chr(39)).replace('|', chr(92) + '|')}`" if text else ""


def _failures(failures: Sequence[Failure]) -> list[str]:
    if not failures:
        return []
    rows = [{"Strategy": f.strategy, "Seed": f.seed, "Place": f.where or "–", "Message": f.message} for f in failures]
    return ["### Failed runs", _table(pd.DataFrame(rows).astype(str))]


def _section(runs: Runs, figure_path: FigurePath | None) -> list[str]:
    bold = {c.title: best(runs, c) for c in shown(runs)}
    parts = [
        f"## {for_markdown(runs.benchmark)}",
        f"{runs.tasks} tasks; seeds {', '.join(map(str, runs.seeds))}. "
        "Mean ± half-width of the 95% t-interval over seeds; best in bold, joint and scratch not competing.",
        _table(summary_text(runs), bold=bold),
    ]
    parts += [f"> {for_markdown(note)}" for note in [*runs.notes(), *filter(None, [won_back(runs)])]]
    said = why(runs)
    if said:
        parts += ["### Why it forgets"]
        told = {for_markdown(runs.label(name)): for_markdown(" ".join(lines)) for name, lines in said.items()}
        parts += ["\n".join(f"- **{name}**: {text}" for name, text in told.items())]
    if figure_path:
        parts += [f"![Average accuracy over tasks seen]({figure_path(runs, None)})"]
        if len(runs.drawn(runs.pictured)) < sum(not runs.is_reference(name) for name in runs.pictured):
            parts += [f"At most {MOST_LINES} lines are drawn, the best by ACC and naive; `--only` chooses others."]
        for cost in costs(runs):
            parts += [f"### {ABOUT[cost][0]}", ABOUT[cost][1], f"![{ABOUT[cost][0]}]({figure_path(runs, cost)})"]
    if certified(runs):
        parts += ["### Promised and measured", _table(certificate_text(runs))]
        parts += [f"![Promised and measured]({figure_path(runs, PROMISED)})"] if figure_path else []
    parts += ["### Every seed", _table(seeds_text(runs))]
    if figure_path:
        parts += ["### Accuracy matrices"]
        parts += [f"![R of {for_markdown(runs.label(name))}]({figure_path(runs, name)})" for name in runs.pictured]
    parts += _failures(runs.failures)
    tables = published(runs.benchmark)
    if tables:
        parts += ["### Published by others", "Not measured here; the settings differ from those above."]
    for table in tables:
        rows = [dict(zip(("Method", "ACC, %", "Needs"), row, strict=True)) for row in table.rows]
        parts += [f"{for_markdown(table.setting)} ({for_markdown(table.source)})", _table(pd.DataFrame(rows))]
    return parts


def _table(frame: pd.DataFrame, text: Sequence[str] = (), bold: Mapping[str, set[str]] | None = None) -> str:
    """Write a frame of strings; ``bold`` names, for a column, the rows (by first cell) in bold."""
    left = ("Strategy", "Needs", "Method", "Place", "Message", *text)

    def cell(heading: object, value: object, row: str) -> str:
        written = for_markdown(str(value))
        return f"**{written}**" if bold and row in bold.get(str(heading), ()) else written

    lines = [
        "| " + " | ".join(for_markdown(str(heading)) for heading in frame.columns) + " |",
        "|" + "|".join("---" if heading in left else "--:" for heading in frame.columns) + "|",
    ]
    for cells in frame.itertuples(index=False, name=None):
        named = zip(frame.columns, cells, strict=True)
        lines.append("| " + " | ".join(cell(heading, value, str(cells[0])) for heading, value in named) + " |")
    return "\n".join(lines)
