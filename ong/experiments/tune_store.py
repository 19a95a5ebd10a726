"""The trials of searches on disk: one SQLite file a folder, in Optuna's own tables, whole at every moment.

A trial is written when its point has been chosen, all at once, and again when its runs are over; the last write is its
state. What a process that is killed leaves is a trial without a state, whose runs the next one goes on with.
"""

from __future__ import annotations

import glob
import math
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.pool import StaticPool

from ong.errors import UserError
from ong.experiments.tune_problem import Problem, deciding_parts
from ong.files import cannot, is_there, remove_leftovers, write_bytes
from ong.report.studies import ABOUT, STUDIES, Trial, finished_trial, open_studies, told_about

__all__ = ["StudyFile", "finished_trials", "studies_in"]

_LOCK = ".lock"


@contextmanager
def studies_in(folder: Path) -> Iterator[RDBStorage]:
    """Yield the storage of a folder's searches, made where there is none; other processes are kept out meanwhile.

    Raises:
        UserError: another process is at work, the folder cannot be written to, or the file is not ours.
        WorkStoppedError: the disk is full.
    """
    path = folder / STUDIES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        is_there(folder / _LOCK)
        lock = FileLock(folder / _LOCK)
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another search is at work in '{folder}'; wait for it, give all strategies to one command, or use another "
            "--out"
        ) from None
    except OSError as error:
        raise cannot("write to the output folder", folder, error) from None
    try:
        remove_leftovers(folder)
        if not is_there(path):
            write_bytes(path, _empty())
        with open_studies(path) as storage:
            yield storage
    finally:
        (folder / _LOCK).unlink(missing_ok=True)
        lock.release()


def _empty() -> bytes:
    """Return a file with Optuna's tables: made in memory, so that no half of it can ever lie on the disk."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    storage = RDBStorage("sqlite://", {"creator": lambda: connection, "poolclass": StaticPool})
    storage.remove_session()
    content: bytes = connection.serialize()
    storage.engine.dispose()
    return content


def finished_trials(problem: Problem) -> list[Trial]:
    """Return what a search has finished, without changing anything: none where there is no file yet.

    Raises:
        UserError: as :class:`StudyFile`.
    """
    path = Path(problem.asked.out) / STUDIES
    if not is_there(path) or problem.asked.force:
        return []
    with open_studies(path) as storage:
        study = _study(storage, problem, path)
        return [] if study is None else list(StudyFile(storage, study).finished().values())


class StudyFile:
    """One study of a storage."""

    def __init__(self, storage: RDBStorage, study: int) -> None:
        """Take the study by Optuna's number of it."""
        self._storage, self._study = storage, study

    @classmethod
    def of(cls, storage: RDBStorage, problem: Problem) -> StudyFile:
        """Return a problem's study, made where there is none, made anew where that was asked for.

        Raises:
            UserError: there is one of the name that asks for something else.
        """
        path = Path(problem.asked.out) / STUDIES
        study = _named(storage, problem.name) if problem.asked.force else _study(storage, problem, path)
        if problem.asked.force:
            for runs in path.parent.glob(f"trial-*/{glob.escape(problem.name)}"):
                shutil.rmtree(runs)
            if study is not None:
                storage.delete_study(study)
            study = None
        if study is None:
            direction = StudyDirection.MAXIMIZE if problem.merit.better == "higher" else StudyDirection.MINIMIZE
            study = _named(storage, problem.name)
            if study is None:
                study = storage.create_new_study([direction], problem.name)
            storage.set_study_user_attr(study, ABOUT, problem.about)
        return cls(storage, study)

    def points(self) -> list[dict[str, Any]]:
        """Return the points chosen so far, by number."""
        return [dict(trial.params) for trial in self._trials()]

    def finished(self) -> dict[int, Trial]:
        """Return the finished trials, by number."""
        return {trial.number: finished_trial(trial) for trial in self._trials() if trial.state.is_finished()}

    def add(self, values: Mapping[str, Any], space: Mapping[str, BaseDistribution]) -> None:
        """Write a point that has been chosen; a recipe's own may lie outside its range."""
        self._storage.create_new_trial(
            self._study,
            FrozenTrial(
                number=-1,
                trial_id=-1,
                state=TrialState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params=dict(values),
                distributions=dict(space),
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            ),
        )

    def tell(self, trial: Trial) -> None:
        """Write what came of a trial."""
        number = self._storage.get_trial_id_from_study_id_trial_number(self._study, trial.number)
        for task, value in enumerate(trial.course, 1):
            self._storage.set_trial_intermediate_value(number, task, value)
        self._storage.set_trial_user_attr(number, "seconds", round(trial.seconds, 3))
        if trial.failure is not None:
            self._storage.set_trial_user_attr(number, "failure", trial.failure)
        if not math.isnan(trial.score):
            self._storage.set_trial_state_values(number, TrialState.COMPLETE, [trial.score])
        else:
            self._storage.set_trial_state_values(number, TrialState.PRUNED if trial.pruned else TrialState.FAIL)

    def _trials(self) -> list[FrozenTrial]:
        return self._storage.get_all_trials(self._study, deepcopy=False)


def _named(storage: RDBStorage, name: str) -> int | None:
    try:
        return storage.get_study_id_from_name(name)
    except KeyError:
        return None


def _study(storage: RDBStorage, problem: Problem, path: Path) -> int | None:
    """Return a problem's study; None where there is none, or a process was killed before it had told what it is of."""
    study = _named(storage, problem.name)
    if study is None:
        return None
    attributes = storage.get_study_user_attrs(study)
    if not attributes and not storage.get_n_trials(study):
        return None
    about = told_about(attributes, problem.name, path)
    try:
        found = deciding_parts(about)
    except (KeyError, TypeError, AttributeError):
        raise UserError(
            f"'{path}': the study '{problem.name}' is not what this version of ong tune writes; "
            "begin it anew with --force or use another --out"
        ) from None
    wanted = deciding_parts(problem.about)
    differing = [what for what, part in wanted.items() if found[what] != part]
    if differing:
        raise UserError(
            f"'{path}' holds a search '{problem.name}' with another {' and '.join(differing)}; "
            "begin it anew with --force or use another --out"
        )
    return study
