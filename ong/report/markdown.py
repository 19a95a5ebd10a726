"""A report in Markdown: the summary, every seed's values, figures, formulas, failures, published figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from ong.metrics import FORMULAS
from ong.report.published import published
from ong.report.runs import Runs
from ong.report.tables import best, seeds_text, shown, summary_text

__all__ = ["markdown"]


def markdown(groups: Sequence[Runs], figure_path: Callable[[Runs, str | None], str] | None = None) -> str:
    """Write the report of one or several benchmarks.

    Args:
        groups: the benchmarks' runs.
        figure_path: gives the path of the PNG of a strategy's heat map, or of the curves for None; without it
            the report has no figures.
    """
    parts = ["# Continual learning: " + ", ".join(runs.benchmark for runs in groups)]
    for runs in groups:
        parts += _section(runs, figure_path)
    formulas = [f"| `{name}` | `{formula}` |" for name, formula in FORMULAS.items()]
    parts += ["## Formulas", "\n".join(["| metric | definition |", "|---|---|", *formulas])]
    parts.append("R[t, j] is the accuracy on task j after training task t; row −1 is before training.")
    return "\n\n".join(parts) + "\n"


def _section(runs: Runs, figure_path: Callable[[Runs, str | None], str] | None) -> list[str]:
    summary = summary_text(runs)
    for c in shown(runs):
        winners = best(runs, c)
        summary[c.title] = [
            f"**{cell}**" if strategy in winners else cell
            for strategy, cell in zip(summary["Strategy"], summary[c.title], strict=True)
        ]
    parts = [
        f"## {runs.benchmark}",
        f"{runs.tasks} tasks; seeds {', '.join(map(str, runs.seeds))}. "
        "Mean ± half-width of the 95% t-interval over seeds; best in bold, joint and scratch not competing.",
        _table(summary),
    ]
    parts += [f"> {_escape(note)}" for note in runs.notes()]
    if figure_path:
        parts += [f"![Average accuracy over tasks seen]({figure_path(runs, None)})"]
    parts += ["### Every seed", _table(seeds_text(runs))]
    if figure_path:
        parts += ["### Accuracy matrices"]
        parts += [f"![R of {name}]({figure_path(runs, name)})" for name in runs.strategies]
    if runs.failures:
        rows = [
            {"Strategy": f.strategy, "Seed": f.seed, "Task": f.task, "Step": f.step, "Message": f.message}
            for f in runs.failures
        ]
        parts += ["### Failed runs", _table(pd.DataFrame(rows).astype(str))]
    tables = published(runs.benchmark)
    if tables:
        parts += ["### Published by others", "Not measured here; the settings differ from those above."]
    for table in tables:
        rows = [dict(zip(("Method", "ACC, %", "Needs"), row, strict=True)) for row in table.rows]
        parts += [f"{_escape(table.setting)} ({_escape(table.source)})", _table(pd.DataFrame(rows))]
    return parts


def _table(frame: pd.DataFrame) -> str:
    left = ("Strategy", "Needs", "Method", "Message")
    lines = [
        "| " + " | ".join(_escape(str(heading)) for heading in frame.columns) + " |",
        "|" + "|".join("---" if heading in left else "--:" for heading in frame.columns) + "|",
    ]
    lines += [
        "| " + " | ".join(_escape(str(cell)) for cell in cells) + " |"
        for cells in frame.itertuples(index=False, name=None)
    ]
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
