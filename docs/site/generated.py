"""The parts of pages that are made of the code: each answers a comment such as ``<!-- columns -->`` in a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import typer

from ong.cli import app
from ong.experiments.json_schema import json_schema
from ong.experiments.kinds import KINDS
from ong.report.columns import columns as columns_of_reports

__all__ = ["MARKERS"]

ROOT = Path(__file__).parents[2]


def readme(heading: str) -> str:
    """Return what stands in the README under a heading; ``Top`` is what stands before the first."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.+)\n", text, flags=re.MULTILINE)
    return {"Top": parts[0].partition("\n")[2], **dict(zip(parts[1::2], parts[2::2], strict=True))}[heading]


def columns() -> str:
    """Return a table of all quantities that reports show."""
    rows = (
        (f"`{c.key}`", f"**{c.title}**: {_sentence(c.about)}", f"`{c.formula}`" if c.formula else "",
         {"higher": "more", "lower": "less", None: ""}[c.better], "if asked" if c.on_request else "yes")
        for c in columns_of_reports().values()
    )  # fmt: skip
    return _table(("name", "heading: what it is", "formula", "better", "shown"), rows)


def commands() -> str:
    """Return a section for each command, made of what ``--help`` knows."""
    group: Any = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())


def _command(name: str, command: Any) -> str:
    given = [p for p in command.params if p.name != "help"]
    shown = {p: _shown(p) for p in given}
    rows = (
        (f"`{shown[p]}`", p.help or "", "" if p.required or p.default in (None, False, "") else f"`{p.default}`")
        for p in given
    )
    arguments = (shown[p] for p in given if p.param_type_name == "argument")
    table = "\n\n" + _table(("", "meaning", "default"), rows) if given else ""
    usage = " ".join(("ong", name, *arguments, "[options]"))
    return f"## {name}\n\n```\n{usage}\n```\n\n{command.help}" + table


def _shown(parameter: Any) -> str:
    """Return an argument as ``NAME``, or ``[NAME …]`` where it may be left out; an option as ``--name``."""
    if parameter.param_type_name == "option":
        return ", ".join(parameter.opts)
    name = parameter.name.upper() + " …" * (parameter.nargs == -1)
    return name if parameter.required else f"[{name}]"


def schema(what: str, kind: str = "continual") -> str:
    """Return the tables of a recipe's or record's JSON Schema, one for the whole and one for each table in it."""
    found = json_schema(what, kind)
    parts = [_properties(found)]
    for name, inner in found.get("$defs", {}).items():
        if "properties" in inner:
            parts.append(f"#### {name}\n\n{_sentence(_first(inner))}\n\n{_properties(inner)}")
    return "\n\n".join(parts)


def kinds(what: str) -> str:
    """Return the JSON Schemas of every kind but the continual one, a section each."""
    others = (name for name in KINDS if name != "continual")
    return "\n\n".join(f"### Kind `{name}`\n\n{schema(what, name)}" for name in others)


def _first(described: dict[str, Any]) -> str:
    return " ".join(described.get("description", "").split("\n\n")[0].split())


def _properties(described: dict[str, Any]) -> str:
    required = described.get("required", [])

    def default(key: str, value: dict[str, Any]) -> str:
        given = value.get("default")
        if key in required:
            return "required"
        return "" if given is None or isinstance(given, dict) else f"`{json.dumps(given)}`"

    rows = (
        (f"`{key}`", _type(value), default(key, value), _sentence(value.get("description", "")))
        for key, value in described["properties"].items()
    )
    return _table(("key", "type", "default", "meaning"), rows)


def _type(value: dict[str, Any]) -> str:
    """Return a JSON Schema's type in TOML's words."""
    for several in ("anyOf", "oneOf"):
        if several in value:
            return " or ".join(dict.fromkeys(_type(v) for v in value[several] if v.get("type") != "null"))
    if "$ref" in value:
        return value["$ref"].rpartition("/")[2]
    if "const" in value or "enum" in value:
        return ", ".join(f"`{json.dumps(v)}`" for v in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}" if value.get("items") else "list"
    limits = ("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<")
    bounds = [f"{sign} {value[key]}" for key, sign in limits if key in value]
    names = {"object": "table", "boolean": "true or false", "integer": "whole number"}
    return " ".join([names.get(value.get("type", "any"), value.get("type", "any")), *bounds])


def reports() -> str:
    """Return a list of the published pages, with the numbers of runs and strategies in each."""
    rows = []
    for page in sorted((ROOT / "results").glob("*/report.html")):
        records = list(page.parent.rglob("seed-*/record.json"))
        strategies = {path.parent.parent.name for path in records}
        name = page.parent.name
        rows.append((f"[{name}](results/{name}/report.html)", str(len(strategies)), str(len(records))))
    return _table(("page", "strategies", "runs"), rows)


def notebook(name: str) -> str:
    """Return a notebook of ``docs/examples`` with what it printed and drew."""
    cells = nbformat.read(ROOT / "docs" / "examples" / f"{name}.ipynb", as_version=4).cells
    return "\n\n".join(part for cell in cells for part in _cell(cell))


def _cell(cell: Any) -> Iterator[str]:
    if cell.cell_type == "markdown":
        yield cell.source
        return
    yield f"```python\n{cell.source}\n```"
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":
            yield f"```\n{output.text.rstrip()}\n```"
        elif "image/png" in data:
            source = f"data:image/png;base64,{data['image/png'].strip()}"
            yield f'<img class="output" alt="What the cell above draws" src="{source}">'
        elif "text/html" in data:
            yield f'<div class="output">\n{data["text/html"]}\n</div>'
        elif "text/plain" in data:
            yield f"```\n{data['text/plain']}\n```"


def _sentence(text: str) -> str:
    """Return words of a docstring as Markdown."""
    return re.sub(r":\w+:`+", "`", " ".join(text.split())).replace("``", "`")


def _table(heading: tuple[str, ...], rows: Any) -> str:
    lines = (heading, ("---",) * len(heading), *rows)
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


MARKERS: dict[str, Callable[..., str]] = {
    made.__name__: made for made in (columns, commands, kinds, notebook, readme, reports, schema)
}
