"""JSON Schemas of records and recipes, made from the models that check them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from ong.errors import UnknownNameError
from ong.experiments.kinds import kind_of
from ong.report.records import SCHEMA, HistoryRecord, Record

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WHAT = ("benchmark", "record", "strategy")


def json_schema(what: str, kind: str = "continual") -> dict[str, Any]:
    """Return the JSON Schema of a kind's ``record``, ``benchmark`` recipe or ``strategy`` recipe.

    Raises:
        UnknownNameError: no such thing, or no such kind.
    """
    if what not in _WHAT:
        raise UnknownNameError("schema", what, _WHAT)
    known = kind_of(kind)
    if what == "record":
        return _of_record(Record if kind == "continual" else HistoryRecord, kind)
    model: type[BaseModel] = known.benchmark if what == "benchmark" else known.strategy
    return {"$schema": _DIALECT, **model.model_json_schema()}


def _of_record(model: type[BaseModel], kind: str) -> dict[str, Any]:
    """Return the schema of ``record.json``: without what lies beside it, and with the version that stands in it."""
    schema = model.model_json_schema()
    properties = {"schema": {"const": SCHEMA, "title": "Version of this format"}, **schema["properties"]}
    for beside in ("environment", "path"):
        properties.pop(beside, None)
    required = ["schema", *(name for name in schema["required"] if name in properties)]
    described = {"title": f"record.json of a {kind} run", "properties": properties, "required": required}
    return {"$schema": _DIALECT, **schema, **described}
