"""Recipes: what a strategy or a benchmark is, read from TOML and checked before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ong.errors import UnknownNameError, UserError

__all__ = [
    "BenchmarkRecipe",
    "Buildable",
    "StrategyRecipe",
    "list_recipes",
    "load_benchmark",
    "load_strategy",
    "override",
    "recipe_path",
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Buildable(BaseModel):
    """A class to be built: ``use = "module:Name"`` and its keyword arguments beside it."""

    model_config = ConfigDict(extra="allow")
    use: str

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class StrategyRecipe(_Strict):
    """How a learner learns."""

    name: str
    summary: str
    source: str
    needs: list[str] = []
    template: str = "avalanche.training.supervised:Naive"
    plugins: list[Buildable] = []
    optimizer: Buildable
    on: dict[str, dict[str, Any]] = {}
    search: dict[str, dict[str, Any]] = {}


class StreamRecipe(BaseModel):
    """A stream by name, and its options."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The stream builder's keyword arguments."""
        return dict(self.model_extra or {})


class ModelRecipe(BaseModel):
    """A built-in network by ``name``, or a class by ``use``, and its options."""

    model_config = ConfigDict(extra="allow")
    name: str | None = None
    use: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The network's keyword arguments."""
        return dict(self.model_extra or {})


class TrainingRecipe(_Strict):
    """Passes over each task and examples a step, the same for every strategy."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(default=500, ge=1)


class BenchmarkRecipe(_Strict):
    """What is learned."""

    name: str
    summary: str
    kind: Literal["continual"]
    dataset: str
    stream: StreamRecipe
    model: ModelRecipe
    training: TrainingRecipe


R = TypeVar("R", StrategyRecipe, BenchmarkRecipe)


def list_recipes(folder: Literal["strategies", "benchmarks"]) -> list[str]:
    """Return the names of the recipes in the package, sorted."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in resources.files(f"ong.{folder}").iterdir()
        if entry.name.endswith(".toml")
    )


def load_strategy(name_or_path: str) -> StrategyRecipe:
    """Read a strategy by its name in the package or the path of a TOML file.

    Raises:
        UserError: no such name or file, not TOML, or keys that a strategy does not have.
    """
    return _load(name_or_path, "strategy", "strategies", StrategyRecipe)


def load_benchmark(name_or_path: str) -> BenchmarkRecipe:
    """Read a benchmark by its name in the package or the path of a TOML file.

    Raises:
        UserError: no such name or file, not TOML, or keys that a benchmark does not have.
    """
    return _load(name_or_path, "benchmark", "benchmarks", BenchmarkRecipe)


def recipe_path(name_or_path: str, folder: Literal["strategies", "benchmarks"]) -> Path:
    """Return the file of a recipe in the package, or the path that was given.

    Raises:
        UserError: no recipe in the package has that name.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        return Path(name_or_path)
    names = list_recipes(folder)
    if name_or_path not in names:
        raise UnknownNameError({"strategies": "strategy", "benchmarks": "benchmark"}[folder], name_or_path, names)
    return Path(str(resources.files(f"ong.{folder}") / f"{name_or_path}.toml"))


def _load(name_or_path: str, kind: str, folder: Literal["strategies", "benchmarks"], recipe: type[R]) -> R:
    path = recipe_path(name_or_path, folder)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the {kind} recipe '{path}': {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the {kind} recipe '{name_or_path}' is not TOML: {error}") from None
    return _checked(recipe, {"name": path.stem} | values, f"{kind} recipe '{name_or_path}'")


def _checked(recipe: type[R], values: Mapping[str, Any], what: str) -> R:
    try:
        return recipe.model_validate(dict(values))
    except ValidationError as error:
        problems = error.errors()
        first = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise UnknownNameError(f"key of {what}:", where, _keys_beside(recipe, first["loc"])) from None
        if first["type"] == "missing":
            raise UserError(f"{what}: '{where}' is missing") from None
        raise UserError(f"{what}: '{where}': {first['msg']}, got {first['input']!r}") from None


def _keys_beside(recipe: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the dotted keys a recipe has at the place of an unknown one."""
    model, prefix = recipe, ""
    for part in location[:-1]:
        inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model, prefix = inner, f"{prefix}{part}."
    return [prefix + name for name in model.model_fields if name != "name" or prefix]


def override(recipe: R, changes: Mapping[str, Any]) -> R:
    """Return a recipe with dotted keys replaced, such as ``{"plugins.0.damping": 0.01, "optimizer.lr": 0.3}``.

    Raises:
        UserError: a key that leads nowhere, or a value the recipe does not accept.
    """
    values = recipe.model_dump()
    kind = "strategy" if isinstance(recipe, StrategyRecipe) else "benchmark"
    for key, value in changes.items():
        place: Any = values
        *path, last = key.split(".")
        for part in path:
            place = _step(place, part, key)
        if isinstance(place, list):
            raise UserError(f"'{key}' replaces a whole entry of a list; name one of its keys, such as '{key}.lr'")
        if not isinstance(place, dict):
            raise UserError(f"'{key}' leads into a plain value")
        place[last] = value
    return _checked(type(recipe), values, f"{kind} '{recipe.name}'")


def _step(place: Any, part: str, key: str) -> Any:
    if isinstance(place, dict):
        if part not in place:
            raise UnknownNameError(f"part of the key '{key}':", part, [str(k) for k in place])
        return place[part]
    if isinstance(place, list):
        if not part.isdigit() or int(part) >= len(place):
            raise UserError(f"'{key}': '{part}' is not one of the {len(place)} entries, counted from 0")
        return place[int(part)]
    raise UserError(f"'{key}' leads into a plain value at '{part}'")
