"""One HTML page that holds a whole report: no network, no scripts; tables, figures and recipes inside."""

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

from ong.metrics import FORMULAS
from ong.report.certificates import certificate_text, certified, promised_and_measured
from ong.report.columns import COLUMNS, COSTS, column
from ong.report.costs import ABOUT, Cost, accuracy_against, costs
from ong.report.document import Document, TextTable, recipe_pairs
from ong.report.figures import DARK, LIGHT, Theme, accuracy_curves, heat_map, render
from ong.report.published import published
from ong.report.runs import HistoryRuns, Runs, flatten
from ong.report.tables import best, estimates, seeds_text, shown, summary_text, task_frame

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
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(lambda name: files.joinpath(name).read_text(encoding="utf-8")),
    )
    return environment.get_template("page.html.j2").render(
        title=", ".join(runs.benchmark for runs in groups),
        css=files.joinpath("page.css").read_text(encoding="utf-8"),
        formulas=FORMULAS if any(isinstance(runs, Runs) for runs in groups) else {},
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
        "summary": _summary(runs),
        "needs": {name: runs.needs(name) for name in runs.strategies},
        "notes": runs.notes(),
        "failures": runs.failures,
        "curves": _picture(lambda theme: accuracy_curves(runs, theme), "Average accuracy over tasks seen"),
        "costs": [
            {"title": ABOUT[cost][0], "lead": ABOUT[cost][1], "picture": _cost(runs, cost)} for cost in costs(runs)
        ],
        "matrices": [_matrix(runs, name) for name in runs.pictured],
        "promised": _promised(runs) if certified(runs) else None,
        "every_seed": _table(seeds_text(runs)),
        "strategies": [_strategy(runs, name) for name in runs.strategies],
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
                    f"{label}: {name}" if label == "best strategy" else label,
                    acc.text(table[name]["ACC"]),
                    "ACC",
                )
            )
    if competing and table[competing[0]]["recovered"].count and competing[0] != "naive":
        share = table[competing[0]]["recovered"].mean
        tiles.append(("of what forgetting costs", f"{100 * share:.0f} %", f"won back by {competing[0]}"))
    return tiles


def _summary(runs: Runs) -> Table:
    winners = {c.title: best(runs, c) for c in shown(runs)}
    frame = summary_text(runs)  # needs stand under the strategy's name instead of in a column
    return _table(frame.drop(columns="Needs", errors="ignore"), winners)


def _table(frame: pd.DataFrame, winners: dict[str, set[str]] | None = None) -> Table:
    """Prepare a frame of strings; ``winners`` names, for a column, the rows (by first cell) that are best."""
    hints = {c.title: c.hint for c in (*COLUMNS, *map(column, [*FORMULAS, *COSTS]))}
    bold = winners or {}
    return Table(
        [(str(name), hints.get(str(name), ""), name in TEXT_COLUMNS) for name in frame.columns],
        [
            [(str(cell), str(row[0]) in bold.get(str(name), ())) for name, cell in zip(frame.columns, row, strict=True)]
            for row in frame.itertuples(index=False, name=None)
        ],
    )


def _matrix(runs: Runs, strategy: str) -> Picture:
    return _picture(lambda theme: heat_map(runs, strategy, theme), f"Accuracy matrix of {strategy}")


def _cost(runs: Runs, cost: Cost) -> Picture:
    return _picture(lambda theme: accuracy_against(runs, cost, theme), ABOUT[cost][0])


def _promised(runs: Runs) -> dict[str, Any]:
    picture = _picture(lambda theme: promised_and_measured(runs, theme), "Promised and measured change of old outputs")
    return {"picture": picture, "table": _table(certificate_text(runs))}


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
        "summary": str(recipe.get("summary", "")),
        "source": str(recipe.get("source", "")),
        "needs": runs.needs(name),
        "seeds": len(records),
        "tasks": _table(_task_text(runs, name)),
        "recipe": _recipe(recipe, TOLD_ELSEWHERE),
        "others": others,
    }


def _task_text(runs: Runs, strategy: str) -> pd.DataFrame:
    frame = task_frame(runs, strategy)
    text = pd.DataFrame({"Task": frame["task"].astype(str)})
    for name in frame.columns.drop("task"):
        if str(name).startswith("certificate_"):  # which have a section of their own
            continue
        known = column(str(name))
        title = known.title if known.title != known.key else known.key.replace("_", " ").capitalize()
        text[title] = [known.write(float(value)) for value in frame[name]]
    return text


def _recipe(recipe: dict[str, Any], without: Sequence[str]) -> dict[str, str]:
    flat = flatten({key: value for key, value in recipe.items() if key not in without})
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def _environment(runs: Runs | HistoryRuns) -> dict[str, str]:
    """Merge the environments of all records; where they differ, every value is given."""
    values: dict[str, dict[str, None]] = {}
    for record in runs.records:
        for key, value in flatten(record.environment).items():
            values.setdefault(key, {})[str(value)] = None
    return {key: " · ".join(seen) for key, seen in values.items() if key}
