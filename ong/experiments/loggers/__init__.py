"""Loggers: what a run measures while it trains, sent to TensorBoard, a CSV file, Weights & Biases, MLflow or your own.

A logger is a class of three methods. It is made in the process that trains, from a table of the benchmark's recipe
(``[[loggers]] name = "wandb"``, or ``use = "module:Class"``) or from ``--logger``. What it does or fails to do never
changes a record.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ong.errors import UnknownNameError, UserError
from ong.experiments.schema import Buildable, LoggerRecipe

__all__ = ["LOGGERS", "Logger", "RunInfo", "installed", "make_loggers", "with_loggers"]

LOGGERS = {
    "csv": "ong.experiments.loggers.csv_file:CSVLogger",
    "mlflow": "ong.experiments.loggers.mlflow:MLflowLogger",
    "tensorboard": "ong.experiments.loggers.tensorboard:TensorBoardLogger",
    "wandb": "ong.experiments.loggers.wandb:WandbLogger",
}


@dataclass(frozen=True)
class RunInfo:
    """What a logger is told of a run.

    Attributes:
        settings: the record's ``benchmark``, ``strategy`` and ``seed``, without words that only describe them.
        folder: the run's own folder.
        out: the folder of all runs.
        id: 16 hexadecimal digits; a run that resumes keeps them, one that begins anew has others.
        last: the last step measured before the run was interrupted; −1 where it is new.
    """

    settings: Mapping[str, Any]
    folder: Path
    out: Path
    id: str
    last: int

    @property
    def benchmark(self) -> str:
        """The benchmark's name."""
        return str(self.settings["benchmark"]["name"])

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return str(self.settings["strategy"]["name"])

    @property
    def label(self) -> str:
        """``BENCHMARK/STRATEGY/seed-S``."""
        return f"{self.benchmark}/{self.strategy}/seed-{self.settings['seed']}"

    @property
    def parameters(self) -> dict[str, str | int | float | bool]:
        """The settings by dotted keys, such as ``strategy.optimizer.lr``; what is not set is left out."""
        return dict(_flat("", self.settings))


class Logger(ABC):
    """Takes what a run measures. An error that one raises is told once, and the run goes on without it.

    Options are the parameters of ``__init__``, where a missing package or account should be a :class:`UserError`: a
    logger is made before anything trains too, and thrown away.

    Examples:
        >>> class Printing(Logger):
        ...     def start(self, run: RunInfo) -> int:
        ...         print(run.label)
        ...         return run.last
        ...
        ...     def log(self, step: int, values: Mapping[str, float]) -> None:
        ...         print(step, values)
        ...
        ...     def finish(self, metrics: Mapping[str, float] | None) -> None:
        ...         print("stopped" if metrics is None else metrics)
    """

    @abstractmethod
    def start(self, run: RunInfo) -> int:
        """Begin a run, or go on with that of the same id.

        Returns:
            The last step that the tracker has of it; later ones, up to ``run.last``, are then given again. −1 gives
            all of them, ``run.last`` none.
        """

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take what was measured at a step, which is larger than the one before.

        Args:
            step: passes over training data so far; 0 is before training.
            values: finite numbers by name.
        """

    @abstractmethod
    def finish(self, metrics: Mapping[str, float] | None) -> None:
        """End the run.

        Args:
            metrics: the record's final ones; None where the run stops before its end, from where it may be resumed.
        """


def with_loggers(recipes: Sequence[LoggerRecipe], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a recipe's tables of loggers, and those that are asked for by ``name`` or ``module:Class`` besides.

    Raises:
        UnknownNameError: a name of none.
    """
    tables = [recipe.model_dump(exclude_none=True) for recipe in recipes]
    for name in dict.fromkeys(names):
        key = "use" if ":" in name else "name"
        if key == "name" and name not in LOGGERS:
            raise UnknownNameError("logger", name, LOGGERS)
        if not any(table.get(key) == name for table in tables):
            tables.append({key: name})
    return tables


def make_loggers(recipes: Sequence[LoggerRecipe]) -> dict[str, Logger]:
    """Make loggers, by their names and options.

    Raises:
        UserError: an unknown name or option, a class that is no logger, two tables that are the same, or whatever a
            logger lacks.
    """
    made: dict[str, Logger] = {}
    for recipe in recipes:
        if (recipe.name is None) == (recipe.use is None):
            raise UserError("loggers: give either 'name' (a built-in logger) or 'use' ('module:Class')")
        if recipe.name is not None and recipe.name not in LOGGERS:
            raise UnknownNameError("logger", recipe.name, LOGGERS)
        key = " ".join([recipe.name or str(recipe.use), *([json.dumps(recipe.options)] if recipe.options else [])])
        if key in made:
            raise UserError(f"loggers: two tables are the same, {key}; leave one out")
        from ong.experiments.build import build  # Avalanche, which other kinds of benchmark do without

        use = recipe.use if recipe.name is None else LOGGERS[recipe.name]
        made[key] = build(Buildable(use=str(use), **recipe.options), Logger, "logger")
    return made


def installed(package: str, extra: str) -> None:
    """See that a package is there.

    Raises:
        UserError: it is not; the line says how to install it.
    """
    if find_spec(package) is None:
        raise UserError(f"logger '{extra}' needs the package {package}; install it: pip install 'ong[{extra}]'")


def _flat(start: str, value: Any) -> Iterator[tuple[str, str | int | float | bool]]:
    if isinstance(value, Mapping | list | tuple):
        for key, part in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _flat(f"{start}.{key}" if start else str(key), part)
    elif value is not None:
        yield start, value
