"""One finished run, as its folder ``OUT/BENCHMARK/STRATEGY/seed-S/`` tells it.

``record.json`` holds what was measured and ``environment.json`` where; a run that ended early left a
``failure.json``.
"""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ong.errors import UserError, nearest
from ong.files import is_there, read_text
from ong.metrics import AccuracyMatrix
from ong.quantities import Quantity
from ong.report.migrations import migrated

Model = TypeVar("Model", bound=BaseModel)

__all__ = [
    "KINDS",
    "BaseRecord",
    "Failure",
    "HistoryRecord",
    "Record",
    "Timing",
    "read_failure",
    "read_record",
    "understood",
]

KINDS = ("continual", "autoencoder", "deep-linear", "fisher")
"""The kinds of benchmark that have a report; all but the first keep a history instead of an accuracy matrix."""


_ASIDE = ("summary", "diagnostics")  # what changes nothing of what is learned
_MOST_DIGITS = 300  # more do not fit a float


def _nan_is_none(value: object) -> object:
    return None if isinstance(value, float) and math.isnan(value) else value


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


Number = Annotated[float | None, BeforeValidator(_nan_is_none)]
Described = Annotated[Quantity, BeforeValidator(TypeAdapter(Quantity).validate_python)]


class Timing(BaseModel):
    """Seconds of a run: by task or epoch for training, by row of the matrix for evaluation, and from start to end.

    ``cpu_seconds`` are the processor's for training, where a kind measures them: less disturbed by other programs.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    train_seconds: list[Number] = []
    cpu_seconds: list[Number] = []
    evaluate_seconds: list[Number] = []
    total_seconds: Number = None


class BaseRecord(BaseModel):
    """What every ``record.json`` holds, typed and read-only.

    Attributes:
        benchmark: the recipe as it was run, with all its values.
        strategy: the same of the strategy.
        seed: of the stream, the weights and the order of the data.
        metrics: what was reached, by name.
        diagnostics: numbers about the run, by name; lists are by task.
        timing: seconds.
    """

    model_config = ConfigDict(frozen=True, strict=True, ignored_types=(cached_property,))

    benchmark: dict[str, Any]
    strategy: dict[str, Any]
    seed: int = Field(ge=0)
    metrics: dict[str, Number] = {}
    diagnostics: dict[str, Any] = {}
    timing: Timing = Timing()
    environment: dict[str, Any] = {}
    path: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for recipe, what in ((self.benchmark, "benchmark"), (self.strategy, "strategy")):
            if not isinstance(recipe.get("name"), str) or not recipe["name"]:
                raise ValueError(f"{what} has no name")
        return self

    @property
    def benchmark_name(self) -> str:
        """The benchmark's name."""
        return str(self.benchmark["name"])

    def is_of_same_benchmark(self, other: BaseRecord) -> bool:
        """Whether both learned the same thing, on the same data: benchmarks may differ in words and diagnostics."""
        mine, theirs = ({k: v for k, v in r.benchmark.items() if k not in _ASIDE} for r in (self, other))
        return mine == theirs

    @property
    def strategy_name(self) -> str:
        """The strategy's name."""
        return str(self.strategy["name"])

    @property
    def kind(self) -> str:
        """The benchmark's kind."""
        return str(self.benchmark.get("kind", KINDS[0]))

    def _repr_html_(self) -> str:
        from ong.report.notebooks import record_html  # which knows records

        assert isinstance(self, Record | HistoryRecord)
        return record_html(self)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the strategy needs that others do without, such as stored examples."""
        needs = self.strategy.get("needs") or []
        return (needs,) if isinstance(needs, str) else tuple(str(need) for need in needs)

    @property
    def budget(self) -> int | None:
        """The bytes that the strategy was sized to; None where it was not."""
        memory = self.strategy.get("memory")
        return memory.get("budget") if isinstance(memory, dict) else None


class HistoryRecord(BaseRecord):
    """A run that is not a sequence of tasks: ``history`` holds lists over epochs, by name."""

    history: dict[str, Any]


class Record(BaseRecord):
    """A run over tasks.

    Attributes:
        accuracy_matrix: R, the row before training first; null where nothing was measured.
        quantities: what those of the diagnostics are that a recipe brought.
    """

    accuracy_matrix: list[list[Number]]
    quantities: dict[str, Described] = {}

    @model_validator(mode="after")
    def _check_matrix(self) -> Self:
        assert self.matrix.tasks  # builds the matrix, which checks shape and range
        return self

    @cached_property
    def matrix(self) -> AccuracyMatrix:
        """R with the row before training."""
        return AccuracyMatrix.from_rows(self.accuracy_matrix)

    @cached_property
    def by_task(self) -> dict[str, list[float]]:
        """The diagnostics that are one number a task (lists of length T), NaN where not applicable."""
        return {
            name: [math.nan if x is None else float(x) for x in values]
            for name, values in self.diagnostics.items()
            if isinstance(values, list)
            and len(values) == self.matrix.tasks
            and all(x is None or isinstance(x, int | float) for x in values)
        }


class Failure(BaseModel):
    """A run that ended early: ``failure.json``."""

    model_config = ConfigDict(frozen=True, strict=True)

    strategy: str
    seed: int
    task: int | None = None
    epoch: int | None = None
    step: int | None = None
    message: str
    path: Path = Field(default=Path(), exclude=True)

    @property
    def where(self) -> str:
        """The task or epoch and the step in it, in words; empty if unknown."""
        places = {"task": self.task, "epoch": self.epoch, "step": self.step}
        return ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)

    @property
    def benchmark_name(self) -> str:
        """The benchmark's name, by the folder it lies in."""
        folder = self.path.resolve().parent
        return folder.parent.parent.name


def read_record(path: Path | str) -> Record | HistoryRecord:
    """Read one ``record.json`` and, if it is there, the ``environment.json`` beside it.

    Args:
        path: the file, or the run's folder.

    Raises:
        UserError: if the file is missing, is not JSON, is of an unknown schema version or kind, or does not hold
            what a record holds; the message names the file and the remedy.
    """
    path = Path(path)
    if path.is_dir() and path.name != "record.json":
        path = path / "record.json"
        several = [] if path.exists() else sorted(path.parent.rglob("record.json"))
        if several:
            raise UserError(f"{path.parent} holds {len(several)} runs; give one, such as {several[0].parent}")
    content = migrated(_load(path), path)
    benchmark = content.get("benchmark")
    kind = benchmark.get("kind") if isinstance(benchmark, dict) else None
    if kind is not None and kind not in KINDS:
        close = nearest(str(kind), KINDS)
        hint = f"did you mean '{close}'?" if close else f"reports exist for: {', '.join(KINDS)}"
        raise UserError(f"{path}: benchmark of kind '{kind}'; {hint}")
    environment = path.with_name("environment.json")
    extra = {"environment": _load(environment) if environment.is_file() else {}, "path": path}
    if kind is None or kind == KINDS[0]:
        return _validated(Record, content | extra, path)
    return _validated(HistoryRecord, content | extra, path)


def read_failure(path: Path) -> Failure:
    """Read one ``failure.json``.

    Raises:
        UserError: if the file is not JSON or not a failure; the message names the file and the remedy.
    """
    return _validated(Failure, _load(path) | {"path": path}, path)


@contextmanager
def understood(path: Path | str) -> Iterator[None]:
    """Name the records where what a report makes of them fails for what they hold, such as text among numbers.

    Args:
        path: a record, or the folder that holds several.

    Raises:
        UserError: it does.
    """
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {str(error)[:200]}, at {Path(last.filename).name}:{last.lineno}"
        raise UserError(f"{path}: holds what no report understands ({told}); if it was changed, {_REMEDY}") from error


def _load(path: Path) -> dict[str, Any]:
    if not is_there(path):
        raise UserError(f"{path}: cannot be read (there is no such file); give a run's folder or its file")
    try:
        content = json.loads(read_text(path, "record"), parse_int=_whole)
    except UserError:
        raise
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: truncated or not JSON ({error}); {_REMEDY}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: a JSON object is expected, got {type(content).__name__}; {_REMEDY}")
    return content


def _validated(model: type[Model], content: dict[str, Any], path: Path) -> Model:
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        what = f"{place}: {first['msg']}" if place else first["msg"].removeprefix("Value error, ")
        raise UserError(f"{path}: {what}; {_REMEDY}") from error


_REMEDY = "delete the file and repeat the run"
