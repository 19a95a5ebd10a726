"""One HTML page that holds a whole report: no network; tables, charts, recipes and what draws them inside."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
from matplotlib.figure import Figure

from ong.report.certificates import certificate_text, certified
from ong.report.charts import charts
from ong.report.columns import Column, column, columns, metric_columns
from ong.report.commands import commands
from ong.report.costs import ABOUT, costs
from ong.report.document import Document, TextTable, recipe_pairs
from ong.report.figures import DARK, LIGHT, Theme, render
from ong.report.heat_tables import SHADES, heat_table
from ong.report.published import published
from ong.report.runs import HistoryRuns, Runs, flatten
from ong.report.summary import chooser, memory_groups, summary
from ong.report.swatches import swatches
from ong.report.tables import estimates, every_column, seeds_text, task_frame
from ong.report.words import why, won_back

__all__ = ["page"]

TEXT_COLUMNS = ("Strategy", "Needs")
TOLD_ELSEWHERE = ("name", "summary", "source", "needs")


@dataclass(frozen=True)
class Table:
    """What the template needs of a table: headings (title, hint, is text) and rows of (text, is best)."""

    headings: list[tuple[str, str, bool]]
    rows: list[list[tuple[str, bool]]]


@dataclass(frozen=True)
class Picture:
    """One figure for light and for dark paper, as data URIs."""

    light: str
    dark: str
    alt: str


def page(groups: Sequence[Runs | Document]) -> str:
    """Return the self-contained HTML page of one or several benchmarks' runs."""
    files = resources.files("ong.report")

    def text(name: str) -> str:
        return files.joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(text),
    )
    of_tasks = [runs for runs in groups if isinstance(runs, Runs)]
    formulas = {c.key: c for runs in of_tasks for c in (*metric_columns(runs), *every_column(runs))}
    return environment.get_template("page.html.j2").render(
        title=", ".join(runs.benchmark for runs in groups),
        css=text("page.css"),
        line_colours={"light": LIGHT.lines, "dark": DARK.lines},
        shades=SHADES,
        scripts=[text("static/plotly-basic.min.js"), text("static/charts.js"), text("static/page.js")]
        if of_tasks
        else [],
        formulas=list(formulas.values()),
        benchmarks=[_benchmark(runs) if isinstance(runs, Runs) else _document(runs) for runs in groups],
    )


def _benchmark(runs: Runs) -> dict[str, Any]:
    recipe = runs.records[0].benchmark
    return {
        "is_document": False,
        "name": runs.benchmark,
        "about": str(recipe.get("summary", "")),
        "recipe": _recipe(recipe, ("kind", *TOLD_ELSEWHERE)),
        "seeds": ", ".join(map(str, runs.seeds)),
        "tiles": _tiles(runs),
        "summary": summary(runs),
        "chooser": chooser(runs),
        "swatches": swatches(runs),
        "groups": memory_groups(runs),
        "notes": [*runs.notes(), *filter(None, [won_back(runs)])],
        "failures": runs.failures,
        "charts": charts(runs),
        "costs": [(cost, *ABOUT[cost]) for cost in costs(runs)],
        "matrices": [heat_table(runs, name) for name in runs.strategies],
        "why": [(name, runs.label(name), " ".join(said)) for name, said in why(runs).items()],
        "promised": _table(certificate_text(runs), runs) if certified(runs) else None,
        "every_seed": _table(seeds_text(runs), runs),
        "strategies": [_strategy(runs, name) for name in runs.strategies],
        "names": {runs.label(name): name for name in runs.strategies},
        "commands": commands(runs),
        "environment": _environment(runs),
        "published": published(runs.benchmark),
    }


def _document(document: Document) -> dict[str, Any]:
    runs = document.runs
    recipe = runs.records[0].benchmark
    return {
        "is_document": True,
        "name": runs.benchmark,
        "about": str(recipe.get("summary", "")),
        "recipe": recipe_pairs(recipe, ("kind", *TOLD_ELSEWHERE)),
        "seeds": ", ".join(map(str, runs.seeds)),
        "tiles": document.tiles,
        "summary": _text_table(document.summary),
        "summary_lead": document.summary.lead,
        "notes": document.notes(),
        "failures": document.failures,
        "parts": [
            {"title": part.title, "lead": part.lead}
            | (
                {"table": _text_table(part)}
                if isinstance(part, TextTable)
                else {"picture": _picture(part.draw, part.title)}
            )
            for part in document.parts
        ],
        "strategies": [
            {
                "name": name,
                "summary": str(runs.of(name)[0].strategy.get("summary", "")),
                "source": str(runs.of(name)[0].strategy.get("source", "")),
                "recipe": recipe_pairs(runs.of(name)[0].strategy, TOLD_ELSEWHERE),
            }
            for name in runs.strategies
        ],
        "formulas": document.formulas,
        "environment": _environment(runs),
        "published": [],
    }


def _text_table(table: TextTable) -> Table:
    return Table(
        [(str(name), table.hints.get(str(name), ""), name in table.text) for name in table.frame.columns],
        [
            [
                (str(cell), str(row[0]) in table.best.get(str(name), ()))
                for name, cell in zip(table.frame.columns, row, strict=True)
            ]
            for row in table.frame.itertuples(index=False, name=None)
        ],
    )


def _tiles(runs: Runs) -> list[tuple[str, str, str]]:
    """The headline as (label, value, remark): the best strategy between naive and joint training."""
    table = estimates(runs)
    acc = column("ACC")
    competing = [name for name in runs.strategies if name not in runs.references]
    labels = {"naive": "naive training", "joint": "all tasks at once"}
    if competing:
        labels = {competing[0]: "best strategy"} | labels
    tiles = []
    for name, label in labels.items():
        if name in table:
            tiles.append(
                (
                    f"{label}: {runs.label(name)}" if label == "best strategy" else label,
                    acc.text(table[name]["ACC"]),
                    "ACC",
                )
            )
    if competing and table[competing[0]]["recovered"].count and competing[0] != "naive":
        share = table[competing[0]]["recovered"].mean
        tiles.append(("of what forgetting costs", f"{100 * share:.0f} %", f"won back by {runs.label(competing[0])}"))
    return tiles


def _table(frame: pd.DataFrame, runs: Runs) -> Table:
    """Prepare a frame of strings."""
    hints = {c.title: _hint(c) for c in columns(runs).values()}
    return Table(
        [(str(name), hints.get(str(name), ""), name in TEXT_COLUMNS) for name in frame.columns],
        [[(str(cell), False) for cell in row] for row in frame.itertuples(index=False, name=None)],
    )


def _hint(of: Column) -> str:
    return ": ".join(part for part in (of.about, of.formula) if part)


def _picture(draw: Callable[[Theme], Figure], alt: str) -> Picture:
    light, dark = (
        "data:image/svg+xml;base64," + base64.b64encode(render(draw(theme), "svg", outlines=False)).decode("ascii")
        for theme in (LIGHT, DARK)
    )
    return Picture(light, dark, alt)


def _strategy(runs: Runs, name: str) -> dict[str, Any]:
    records = runs.of(name)
    recipe = records[0].strategy
    others = {
        f"{key}, seed {record.seed}": json.dumps(value, ensure_ascii=False)
        for record in records
        for key, value in record.diagnostics.items()
        if key not in record.by_task and key != "steps"  # a row a measured step is for the record
    }
    return {
        "name": name,
        "label": runs.label(name),
        "summary": str(recipe.get("summary", "")),
        "source": str(recipe.get("source", "")),
        "needs": runs.needs(name),
        "seeds": len(records),
        "tasks": _table(_task_text(runs, name), runs),
        "recipe": _recipe(recipe, TOLD_ELSEWHERE),
        "others": others,
    }


def _task_text(runs: Runs, strategy: str) -> pd.DataFrame:
    frame = task_frame(runs, strategy)
    text = pd.DataFrame({"Task": frame["task"].astype(str)})
    for name in frame.columns.drop("task"):
        if str(name).startswith("certificate_"):  # which have a section of their own
            continue
        known = column(str(name), runs)
        text[known.title if known.title != known.key else known.key.capitalize()] = [
            known.write(float(value)) for value in frame[name]
        ]
    return text


def _recipe(recipe: dict[str, Any], without: Sequence[str]) -> dict[str, str]:
    told = flatten({key: value for key, value in recipe.items() if key not in without})
    return {k: v if isinstance(v, str) else json.dumps(v) for k, v in told.items() if v is not None}


def _environment(runs: Runs | HistoryRuns) -> dict[str, str]:
    """Merge the environments of all records; where they differ, every value is given."""
    values: dict[str, dict[str, None]] = {}
    for record in runs.records:
        for key, value in flatten(record.environment).items():
            values.setdefault(key, {})[str(value)] = None
    return {key: " · ".join(seen) for key, seen in values.items() if key}
