"""What searches for hyper-parameters found, read from the SQLite file in which Optuna keeps their trials."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from ong.errors import UserError, WorkStoppedError
from ong.files import cannot, is_there

__all__ = [
    "ABOUT",
    "STUDIES",
    "Better",
    "Study",
    "Trial",
    "best_of",
    "finished_trial",
    "in_memory",
    "open_studies",
    "read_studies",
    "told_about",
]

STUDIES = "studies.sqlite3"
"""The file's name, in the folder of a search."""

ABOUT = "ong"
"""The key of what a study's user attributes tell of it."""

_FIRST = b"SQLite format 3\x00"
_BROKEN = {"SQLITE_CORRUPT", "SQLITE_NOTADB"}
_DISK = {"SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM"}


Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Trial:
    """One point of a search that has been tried.

    Attributes:
        number: counted from 0.
        values: dotted recipe keys and their values.
        score: mean over the tuning seeds of the kind's figure of merit; NaN where a run stopped or was ended.
        failure: why it stopped or was ended.
        pruned: it was ended, as it was worse than half of the others.
        course: with the first seed, the figure of merit after each task over the tasks so far.
        seconds: its runs took together.
    """

    number: int
    values: dict[str, Any]
    score: float
    failure: str | None = None
    pruned: bool = False
    course: tuple[float, ...] = ()
    seconds: float = 0.0

    @property
    def done(self) -> bool:
        """Whether it has a score."""
        return not math.isnan(self.score)

    def line(self, metric: str) -> str:
        """Return its score and its point in a line."""
        values = "  ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.values.items())
        told = f"{metric} {self.score:.4f}" if self.done else "pruned" if self.pruned else "stopped"
        return f"trial {self.number}: {told}  {values}"


@dataclass(frozen=True)
class Study:
    """One strategy's search on one benchmark.

    Attributes:
        name: ``BENCHMARK/STRATEGY``.
        about: what was asked for: the recipes, ranges, seeds, the figure of merit, the command, versions.
        trials: those that are over, by number.
        space: where the last one was looked for.
    """

    name: str
    about: dict[str, Any]
    trials: list[Trial]
    space: dict[str, BaseDistribution]

    @property
    def better(self) -> Better:
        """Which scores are better."""
        return "lower" if self.about["better"] == "lower" else "higher"

    @property
    def best(self) -> Trial | None:
        """The trial with the best score; None where all stopped."""
        return best_of(self.trials, self.better)


def best_of(trials: Sequence[Trial], better: Better) -> Trial | None:
    """Return the trial with the best score, the first of equals; None where none has one."""
    done = [trial for trial in trials if trial.done]
    return max(done, key=lambda t: (t.score if better == "higher" else -t.score, -t.number), default=None)


def in_memory(better: Better, sampler: BaseSampler | None = None) -> optuna.Study:
    """Return an empty study of Optuna's that is nowhere on the disk."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction="maximize" if better == "higher" else "minimize", sampler=sampler)


def finished_trial(trial: FrozenTrial) -> Trial:
    """Return what Optuna keeps of a trial."""
    return Trial(
        trial.number,
        dict(trial.params),
        math.nan if trial.value is None or trial.state != TrialState.COMPLETE else trial.value,
        trial.user_attrs.get("failure"),
        trial.state == TrialState.PRUNED,
        tuple(value for _, value in sorted(trial.intermediate_values.items())),
        float(trial.user_attrs.get("seconds", 0.0)),
    )


def read_studies(folder: Path) -> list[Study]:
    """Read every search in a folder that ``ong tune`` wrote.

    Args:
        folder: where the file :data:`STUDIES` lies.

    Returns:
        The searches by name, those without a finished trial left out.

    Raises:
        UserError: the file is damaged, of another program, or there is no finished trial.
    """
    path = folder / STUDIES
    found = []
    with open_studies(path) as storage:
        for frozen in storage.get_all_studies():
            trials = storage.get_all_trials(frozen._study_id, deepcopy=False)
            over = [trial for trial in trials if trial.state.is_finished()]
            if over:
                about = told_about(frozen.user_attrs, frozen.study_name, path)
                space = dict(over[-1].distributions)
                found.append(Study(frozen.study_name, about, [finished_trial(trial) for trial in over], space))
    if not found:
        raise UserError(f"'{path}' has no finished trial yet; `ong tune` goes on with it")
    return sorted(found, key=lambda study: study.name)


def told_about(attributes: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """Return what a study tells of itself.

    Raises:
        UserError: it is of another program.
    """
    about = attributes.get(ABOUT)
    if not isinstance(about, dict):
        raise UserError(f"'{path}' holds a study '{name}' that ong tune has not made; use another folder")
    return about


@contextmanager
def open_studies(path: Path) -> Iterator[RDBStorage]:
    """Yield Optuna's storage of a file that is there.

    Raises:
        UserError: it is damaged, no SQLite file, of another program or another Optuna, or cannot be written to.
        WorkStoppedError: the disk is full or broken.
    """
    if not is_there(path):
        raise UserError(f"'{path}': there is no such file; `ong tune` writes it")
    with _told(path):
        _check(path)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = RDBStorage("sqlite://", {"creator": lambda: _connect(path), "poolclass": NullPool})
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file that is there, whatever its name; ``rw`` does not make one."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=60)


def _check(path: Path) -> None:
    """Keep Optuna from making its tables in a file of another program."""
    with path.open("rb") as file:
        if file.read(len(_FIRST)) != _FIRST:
            raise UserError(f"'{path}' is not a SQLite file; {_AWAY}")
    with closing(_connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"studies", "trials", "version_info"} <= tables:
        raise UserError(f"'{path}' is a SQLite file of another program; {_AWAY}")


_AWAY = "move it away, or use another --out"


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn whatever SQLite, SQLAlchemy and Optuna raise for a file into an error of one line."""
    try:
        yield
    except OSError as error:
        raise cannot("read", path, error) from None
    except (sqlite3.Error, SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        cause = next((e for e in _causes(error) if isinstance(e, sqlite3.Error)), None)
        code, words = getattr(cause, "sqlite_errorname", "") or "", cause or error
        if any(code.startswith(name) for name in _DISK):
            raise WorkStoppedError(f"cannot write '{path}': {words}") from None
        if any(code.startswith(name) for name in _BROKEN):
            raise UserError(
                f"'{path}' is damaged ({words}); {_AWAY}: runs of finished trials are found again"
            ) from None
        raise UserError(f"cannot read or write '{path}': {words}") from None
    except RuntimeError as error:
        if isinstance(error, WorkStoppedError) or "optuna version" not in str(error):
            raise
        raise UserError(f"'{path}' is of another Optuna: {error}") from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        if isinstance(original := getattr(error, "orig", None), BaseException):
            yield original
        error = error.__cause__ or error.__context__
