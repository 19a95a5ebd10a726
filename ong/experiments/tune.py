"""Searches for strategies' hyper-parameters on a benchmark, on seeds that are never reported."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from ong.errors import UserError, WorkStoppedError
from ong.experiments.jobs import Job, Outcome, check
from ong.experiments.memory import DoesNotFitError
from ong.experiments.ranges import end_of, words
from ong.experiments.tune_drive import Searching, alone, side_by_side
from ong.experiments.tune_points import medians, next_point, space_at, wave_of
from ong.experiments.tune_problem import Asked, Problem, problems
from ong.experiments.tune_prune import WatchedJob, course
from ong.experiments.tune_store import StudyFile, studies_in
from ong.experiments.workers import Workers
from ong.report.studies import Trial, best_of

__all__ = ["Search", "tune"]

Listener = Callable[[Problem, Trial], None]


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        problem: what was searched for.
        trials: the trials, by number.
        space: where it looked in the end.
    """

    problem: Problem
    trials: list[Trial]
    space: dict[str, BaseDistribution]

    @property
    def best(self) -> Trial:
        """The trial with the best score.

        Raises:
            WorkStoppedError: every trial stopped.
        """
        best = best_of(self.trials, self.problem.merit.better)
        if best is None:
            raise WorkStoppedError(
                f"{self.problem.label}: every trial stopped, the last one so: {self.trials[-1].failure}"
            )
        return best

    def notes(self) -> list[str]:
        """Say which ranges were widened, and which bests lie at an end of theirs all the same."""
        given = self.problem.given
        lines = [
            f"{key}: searched in {words(among)}, widened from {words(given[key])}"
            for key, among in self.space.items()
            if among != given[key]
        ]
        for key, among in self.space.items():
            end = end_of(among, self.best.values[key])
            if end is not None:
                further = (
                    "more --trials look further"
                    if getattr(among, "log", False)
                    else ("widen that range in [search], where values beyond make sense, and tune again with --force")
                )
                lines.append(f"{key}: the best lies at the {end} end of {words(among)}; {further}")
        return lines


def tune(asked: Asked, workers: int = 1, listener: Listener = lambda problem, trial: None) -> list[Search]:
    """Try hyper-parameters from the ``[search]`` tables of recipes, as many points for each strategy.

    The first trial is the recipe without what its ``[on.…]`` tables say of the searched keys, the next three are
    spread over the ranges, and the others are drawn by Optuna's tree-structured Parzen estimator. The figure of merit
    is the kind's, mean over the seeds: ACC on a sixth of each task's training data, which is held out, or the last
    training loss.

    From the sixth trial on, a logarithmic range is widened by a third of its length wherever the best so far lies at
    an end of it.

    The trials lie in ``studies.sqlite3`` in the folder of the search, their runs in ``trial-N/`` beside it. The same
    search goes on where it was, with more trials too, and tries the same points however often it was killed and
    whatever the number of workers.

    Args:
        asked: what is searched, and how.
        workers: processes.
        listener: called with each finished trial, those of a strategy by number.

    Returns:
        What was found for each strategy, in the order asked for.

    Raises:
        UserError: bad input, such as seeds that reports use, a folder of runs, or a recipe without a search space.
        WorkStoppedError: the disk is full, or a worker process died twice.
    """
    if any(Path(asked.out).glob("*/*/seed-*/record.json")):
        raise UserError(
            f"'{asked.out}' holds runs, and a report of it would show these or the search: use another --out"
        )
    asked_for = problems(asked)
    with studies_in(Path(asked.out)) as storage:
        files = [StudyFile.of(storage, problem) for problem in asked_for]
        for problem, file in zip(asked_for, files, strict=True):
            if len(file.finished()) < asked.trials:
                _check(problem)
        searching = [_search(problem, file, listener) for problem, file in zip(asked_for, files, strict=True)]
        if workers == 1:
            return [alone(one) for one in searching]
        with Workers(workers) as pool:
            return side_by_side(searching, pool)


def _check(problem: Problem) -> None:
    """Build the first point's run, so that whatever is wrong shows before anything runs."""
    try:
        jobs = problem.jobs(problem.first, _folder(problem, 0))
    except DoesNotFitError:
        return  # another point may
    check(jobs[0])


def _folder(problem: Problem, number: int) -> Path:
    return Path(problem.asked.out).absolute() / f"trial-{number}"


def _search(problem: Problem, file: StudyFile, listener: Listener) -> Searching[Search]:
    asked, better = problem.asked, problem.merit.better
    known: list[Trial] = []
    space = problem.given
    while len(known) < asked.trials:
        wave = wave_of(len(known), asked.at_once)
        numbers = [number for number in wave if number < asked.trials]
        space = space_at(wave.start, problem.given, known, asked.at_once, better)
        points = file.points()
        for number in numbers[max(0, len(points) - wave.start) :]:
            beside = points[wave.start : number]
            values = next_point(number, space, known, beside, better) if number else problem.first
            file.add(values, space)
            points = file.points()
        finished = file.finished()
        waiting = {number: points[number] for number in numbers if number not in finished}
        for trial in (yield from _try(problem, waiting, points, medians(known))):
            file.tell(trial)
        finished = file.finished()
        for number in numbers:
            known.append(finished[number])
            listener(problem, known[-1])
    return Search(problem, known, space)


def _try(
    problem: Problem, waiting: Mapping[int, dict[str, Any]], points: Sequence[dict[str, Any]], floors: tuple[float, ...]
) -> Generator[list[Job], list[Outcome], list[Trial]]:
    """Do the runs of some trials; equal points share theirs. With pruning, other seeds follow the first."""
    jobs: dict[int, list[Job] | str] = {}
    for number, values in waiting.items():
        try:
            jobs[number] = problem.jobs(values, _folder(problem, points.index(values)))
        except DoesNotFitError as error:
            jobs[number] = str(error)
    whole = [part for part in jobs.values() if isinstance(part, list)]
    outcomes: dict[Path, Outcome] = {}
    if problem.asked.prune:
        first = [WatchedJob(**vars(part[0]), floors=floors) for part in whole]
        yield from _do(first, outcomes)
        whole = [part[1:] for part in whole if outcomes[part[0].folder.path].record is not None]
    yield from _do([job for part in whole for job in part], outcomes)
    return [
        Trial(number, dict(waiting[number]), math.nan, part)
        if isinstance(part, str)
        else _judged(problem, number, waiting[number], [outcomes.get(job.folder.path) for job in part])
        for number, part in jobs.items()
    ]


def _do(jobs: Sequence[Job], outcomes: dict[Path, Outcome]) -> Generator[list[Job], list[Outcome], None]:
    """Have runs done, each once.

    Raises:
        UserError, WorkStoppedError: one ended for what is not of its point, such as a full disk.
    """
    distinct = {job.folder.path: job for job in jobs if job.folder.path not in outcomes}
    if not distinct:
        return
    for path, outcome in zip(distinct, (yield list(distinct.values())), strict=True):
        if outcome.failure is not None and (outcome.lost or not outcome.place):
            raise (UserError if outcome.wrong else WorkStoppedError)(outcome.failure)
        outcomes[path] = outcome


def _judged(problem: Problem, number: int, values: Mapping[str, Any], outcomes: Sequence[Outcome | None]) -> Trial:
    """Return what a trial's runs make of it; those after a first one that was ended have not been done."""
    first = outcomes[0]
    assert first is not None
    done = [outcome for outcome in outcomes if outcome is not None]
    for outcome in done:
        if outcome.record is None:
            outcome.job.folder.clear()  # its checkpoint, which nobody goes on with
    if "course" in first.place:
        return Trial(number, dict(values), math.nan, first.failure, pruned=True, course=tuple(first.place["course"]))
    scores = [math.nan if o.record is None else float(o.record["metrics"][problem.merit.metric]) for o in done]
    rows = (first.record or {}).get("accuracy_matrix")
    return Trial(
        number,
        dict(values),
        sum(scores) / len(scores),
        next((o.failure for o in done if o.failure is not None), None),
        course=course(rows) if rows else (),
        seconds=sum(o.record["timing"]["total_seconds"] for o in done if o.record is not None),
    )
