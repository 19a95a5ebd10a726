"""Records and recipes of older versions, brought to today's form one version at a time.

Whoever changes what a record or a recipe holds, so that files of before no longer mean the same, raises
:data:`SCHEMA` by one and adds a function here that turns the form before into the new one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ong.errors import UserError

__all__ = ["SCHEMA", "migrated", "migrated_recipe"]

SCHEMA = 2
"""The version of ``record.json``, and of the recipes in it, that this ong writes."""


def migrated(record: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """Return the content of a ``record.json`` of any known version in today's form.

    Args:
        record: the content; what is not understood in it stays, for whoever checks it.
        path: how errors name the file.

    Raises:
        UserError: a version that this ong does not know, such as a newer one.
    """
    version = record.get("schema")
    if type(version) is not int or not 1 <= version <= SCHEMA:
        raise UserError(
            f"{path}: schema version {version!r:.20}, but this ong reads versions 1 to {SCHEMA}; "
            "read it with the ong that wrote it, or repeat the run with --force"
        )
    return _steps(dict(record), version)


def migrated_recipe(part: str, recipe: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return a recipe in today's form.

    ``schema = 2`` in a recipe says which version it was written for; one that says nothing is taken as today's.

    Args:
        part: ``"strategy"`` or ``"benchmark"``.
        recipe: what its file holds.
        what: how errors name it.

    Raises:
        UserError: a version that this ong does not know, such as a newer one.
    """
    values = dict(recipe)
    version = values.pop("schema", SCHEMA)
    if type(version) is not int or not 1 <= version <= SCHEMA:
        raise UserError(f"{what}: 'schema' is {version!r:.20}, but this ong reads versions 1 to {SCHEMA}; update ong")
    changed: dict[str, Any] = _steps({part: values}, version)[part]
    return changed


def _steps(record: dict[str, Any], version: int) -> dict[str, Any]:
    for known in range(version, SCHEMA):
        record = _FROM[known](record)
    return record | {"schema": SCHEMA}


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """A template was the name of a class alone; there were no wrappers and no held-out training data."""
    strategy, benchmark = record.get("strategy"), record.get("benchmark")
    if not (isinstance(strategy, dict) and isinstance(strategy.get("template"), str)):
        return record  # other kinds, and the last records before the number was raised
    record = record | {"strategy": strategy | {"template": {"use": strategy["template"]}, "wrapper": None}}
    if isinstance(benchmark, dict) and isinstance(benchmark.get("training"), dict):
        record["benchmark"] = benchmark | {"training": benchmark["training"] | {"validation": False}}
    return record


_FROM: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
