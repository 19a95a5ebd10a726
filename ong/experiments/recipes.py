"""Recipes: what a strategy or a benchmark is, read from TOML and checked before anything runs."""

from __future__ import annotations

import json
import re
import reprlib
import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from ong.errors import UnknownNameError, UserError
from ong.experiments.kinds import KINDS, kind_of
from ong.experiments.limits import check_numbers, check_tasks
from ong.experiments.schema import BenchmarkRecipe, StrategyRecipe
from ong.files import read_text
from ong.report.migrations import migrated_recipe

__all__ = [
    "checked",
    "list_recipes",
    "load_benchmark",
    "load_strategy",
    "override",
    "read_toml",
    "recipe_path",
]


R = TypeVar("R", bound=BaseModel)


def list_recipes(folder: str) -> list[str]:
    """Return the names of the recipes in a folder of the package (``benchmarks`` or a kind's own), sorted."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in _folder(folder).iterdir() if entry.name.endswith(".toml")
    )


def _folder(folder: str) -> Traversable:
    package, *inner = folder.split("/")
    return resources.files(f"ong.{package}").joinpath(*inner)


def load_strategy(name_or_path: str, kind: str = "continual") -> StrategyRecipe:
    """Read a strategy by its name in the package or the path of a TOML file.

    Args:
        name_or_path: strategies of different kinds may share a name.
        kind: of the benchmark it is to run on.

    Raises:
        UserError: no such name or file, not TOML, or keys that a strategy does not have.
    """
    of = kind_of(kind)
    path = recipe_path(name_or_path, of.folder)
    what = f"strategy recipe '{name_or_path}'"
    values = migrated_recipe("strategy", read_toml(path, "strategy recipe"), what)
    return checked(of.strategy, {"name": path.stem} | values, what)


def load_benchmark(name_or_path: str) -> BenchmarkRecipe:
    """Read a benchmark by its name in the package or the path of a TOML file.

    Raises:
        UserError: no such name or file, not TOML, an unknown kind, or keys that a benchmark of its kind does not have.
    """
    path = recipe_path(name_or_path, "benchmarks")
    what = f"benchmark recipe '{name_or_path}'"
    values = migrated_recipe("benchmark", read_toml(path, "benchmark recipe"), what)
    if "kind" not in values:
        raise UserError(f"{what}: 'kind' is missing; known: {', '.join(KINDS)}")
    kind = kind_of(str(values["kind"]))
    return checked(kind.benchmark, {"name": path.stem} | values, what)


def recipe_path(name_or_path: str, folder: str) -> Path:
    """Return the file of a recipe in the package, or the path that was given.

    Raises:
        UserError: no recipe in the package has that name.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return Path(name_or_path)
    names = list_recipes(folder)
    if name_or_path not in names:
        what, _, kind = folder.partition("/")
        word = {"strategies": "strategy", "benchmarks": "benchmark"}[what]
        if Path(f"{name_or_path}.toml").is_file():
            raise UserError(f"unknown {word} '{name_or_path}'; did you mean the file ./{name_or_path}.toml?")
        if what == "benchmarks" and name_or_path in list_recipes("strategies"):
            raise UserError(
                f"'{name_or_path}' is a strategy; the benchmark comes first, as in: permuted-mnist {name_or_path}"
            )
        raise UnknownNameError(f"{kind} {word}".lstrip(), name_or_path, names)
    return Path(str(_folder(folder) / f"{name_or_path}.toml"))


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: it cannot be read, or is not TOML.
    """
    text = read_text(path, what)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of numbers with too many digits, brackets in brackets
        raise UserError(f"the {what} '{path}' is not TOML: {error}") from None


def checked(recipe: type[R], values: Mapping[str, Any], what: str) -> R:
    """Return what a table holds, checked.

    Args:
        recipe: the model it must fit.
        values: the table.
        what: how errors name it.

    Raises:
        UserError: a key that the model does not have, one that is missing, a value of another type, or a number that
            no run can compute with.
    """
    check_numbers(values, what)
    try:
        made = recipe.model_validate_json(json.dumps(values), strict=True)  # arrays are any sequence there
    except (TypeError, UnicodeEncodeError) as error:  # dates, halves of characters
        raise UserError(f"{what}: {error}") from None
    except ValidationError as error:
        problems = error.errors()
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        where = ".".join(str(part) for part in first["loc"])[:200]
        if first["type"] == "extra_forbidden":
            raise UnknownNameError(f"key of {what}:", where, _keys_beside(recipe, first["loc"])) from None
        if first["type"] == "missing":
            raise UserError(f"{what}: '{where}' is missing") from None
        where = _written(values, first["loc"])[:200]
        raise UserError(f"{what}: '{where}': {first['msg']}, got {reprlib.repr(first['input'])}") from None
    if hasattr(made, "stream"):
        check_tasks(made.stream.options.get("tasks"), what)
    return made


def _written(values: Any, location: tuple[int | str, ...]) -> str:
    """Return the dotted key of a place in values, without the names that pydantic gives to kinds of a value."""
    keys = []
    for part in location:
        if part in values if isinstance(values, Mapping) else isinstance(values, list) and isinstance(part, int):
            keys.append(str(part))
            values = values[part]
    return ".".join(keys)


def _keys_beside(recipe: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the dotted keys a recipe has at the place of an unknown one."""
    model, prefix = recipe, ""
    for part in location[:-1]:
        if isinstance(part, int):  # a table in a list of tables
            prefix += f"{part}."
            continue
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        inner = get_args(inner)[0] if get_origin(inner) is list else inner
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model, prefix = inner, f"{prefix}{part}."
    return [prefix + name for name in model.model_fields if name != "name" or prefix]


def override(recipe: R, changes: Mapping[str, Any]) -> R:
    """Return a recipe with dotted keys replaced, such as ``{"plugins.0.damping": 0.01, "optimizer.lr": 0.3}``.

    Raises:
        UserError: a key that leads nowhere, or a value the recipe does not accept.
    """
    values = recipe.model_dump(mode="json")
    kind = "strategy" if isinstance(recipe, StrategyRecipe) else "benchmark"
    whose = f"{kind} '{values['name']}'"
    for key, value in changes.items():
        place: Any = values
        *path, last = key.split(".")
        for part in path:
            place = _step(place, part, key, whose)
        if isinstance(place, list):
            raise UserError(_of_an_entry(key, place, last, whose))
        if not isinstance(place, dict):
            raise UserError(f"'{key}' leads into a plain value")
        if isinstance(value, bool | str) and type(place.get(last)) in (int, float):  # not every class has annotations
            raise UserError(f"'{key}' of {whose} is a number, {place[last]}; got {value!r}")
        place[last] = value
    return checked(type(recipe), values, whose)


def _of_an_entry(key: str, entries: list[Any], last: str, whose: str) -> str:
    """Return why an entry of a list cannot be replaced."""
    entry = _step(entries, last, key, whose)
    if isinstance(entry, dict):
        known = ", ".join(f"'{key}.{name}'" for name in list(entry)[:3])
        return f"'{key}' of {whose} is a whole entry of a list; name one of its keys, such as {known}"
    whole = key.rpartition(".")[0]
    return f"'{key}' of {whose} is an entry of a list of values, which is given as a whole: {whole}={entries}"


def _step(place: Any, part: str, key: str, whose: str) -> Any:
    if isinstance(place, dict):
        if part not in place:
            raise UnknownNameError(f"part of the key '{key}' of {whose}:", part, [str(k) for k in place])
        return place[part]
    if isinstance(place, list):
        if not re.fullmatch("[0-9]{1,9}", part) or int(part) >= len(place):
            raise UserError(f"'{key}' of {whose}: '{part}' is not one of its {len(place)} entries, counted from 0")
        return place[int(part)]
    raise UserError(f"'{key}' of {whose} leads into a plain value at '{part}'")
