"""JSON Schemas of records and recipes, made from the models that check them."""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import ModelSchema

from ong.errors import UnknownNameError
from ong.experiments.kinds import kind_of
from ong.experiments.sweep_file import SweepFile
from ong.report.migrations import SCHEMA
from ong.report.records import HistoryRecord, Record

__all__ = ["json_schema"]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_WHAT = ("benchmark", "record", "strategy", "sweep")


def json_schema(what: str, kind: str = "continual") -> dict[str, Any]:
    """Return the JSON Schema of a kind's ``record``, ``benchmark`` or ``strategy`` recipe, or of a ``sweep`` file.

    Its ``$id`` ends in the version: ``urn:ong:strategy:continual:2``.

    Raises:
        UnknownNameError: no such thing, or no such kind.
    """
    if what not in _WHAT:
        raise UnknownNameError("schema", what, _WHAT)
    known = kind_of(kind)
    if what == "sweep":  # of all kinds
        return {"$schema": _DIALECT, "$id": "urn:ong:sweep"} | SweepFile.model_json_schema(schema_generator=_Described)
    head = {"$schema": _DIALECT, "$id": f"urn:ong:{what}:{kind}:{SCHEMA}"}
    if what == "record":
        return head | _of_record(Record if kind == "continual" else HistoryRecord, kind)
    return head | _of_recipe(known.benchmark if what == "benchmark" else known.strategy)


def _of_recipe(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=_Described)
    version = {"const": SCHEMA, "description": "version of this format; today's where it is not given"}
    return schema | {"properties": {"schema": version, **schema["properties"]}}


def _of_record(model: type[BaseModel], kind: str) -> dict[str, Any]:
    """Return the schema of ``record.json``: without what lies beside it, and with the version that stands in it."""
    schema = model.model_json_schema(schema_generator=_Described)
    properties = {"schema": {"const": SCHEMA, "description": "version of this format"}, **schema["properties"]}
    for beside in ("environment", "path"):
        properties.pop(beside, None)
    required = ["schema", *(name for name in schema["required"] if name in properties)]
    described = {"title": f"record.json of a {kind} run", "properties": properties, "required": required}
    return schema | described


class _Described(GenerateJsonSchema):
    """Schemas that say of each key what the docstrings of its classes say under ``Attributes``."""

    def model_schema(self, schema: ModelSchema) -> JsonSchemaValue:
        found = super().model_schema(schema)
        if "description" in found:
            found["description"] = _words(found["description"].split("\n\nAttributes:")[0])
        for base in reversed(schema["cls"].__mro__):
            for key, told in _attributes(base).items():
                if key in found.get("properties", {}):
                    found["properties"][key]["description"] = told
        return found


def _attributes(owner: type) -> dict[str, str]:
    """Return what a class's own docstring says of its attributes."""
    text = inspect.cleandoc(owner.__dict__.get("__doc__") or "").partition("Attributes:\n")[2]
    parts = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", text, re.MULTILINE)
    return {name: _words(told) for name, told in parts}


def _words(text: str) -> str:
    """Return a docstring's text without its line breaks and marks."""
    return re.sub(r":\w+:`+", "`", " ".join(text.split())).replace("``", "`")
