"""Search for a strategy's hyper-parameters on a benchmark, on seeds that are never reported."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import tomlkit
import tomlkit.exceptions
from optuna.distributions import BaseDistribution

from ong.errors import UserError, WorkStoppedError
from ong.experiments.kinds import KINDS, kind_of
from ong.experiments.memory import DoesNotFitError, knobs
from ong.experiments.plan import plan
from ong.experiments.ranges import end_of, holds, present, read_range, rounded, widened, words
from ong.experiments.recipes import load_benchmark, load_strategy, read_toml
from ong.experiments.sweep import Job, Outcome, check, outcome_of, perform
from ong.experiments.workers import Workers
from ong.files import read_text, write_text

__all__ = ["TUNING_SEEDS", "Search", "Trial", "tune", "write_block"]

TUNING_SEEDS = range(1000, 10_000)
"""Seeds a search may use; reports use smaller ones."""

_DIGITS = 12  # of a fingerprint, in names of folders


@dataclass(frozen=True)
class Trial:
    """One point of a search.

    Attributes:
        values: dotted recipe keys and their values.
        score: mean over the tuning seeds of the kind's figure of merit; NaN where a run stopped.
        failure: why it stopped.
    """

    values: dict[str, Any]
    score: float
    failure: str | None = None

    def line(self, metric: str) -> str:
        """Return the point and its score in a line."""
        values = "  ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in self.values.items())
        return (f"{metric} {self.score:.4f}" if self.failure is None else "stopped") + f"  {values}"


@dataclass(frozen=True)
class Search:
    """What a search found.

    Attributes:
        trials: the trials, best first.
        space: where it looked in the end.
        given: where the recipe told it to.
    """

    trials: list[Trial]
    space: dict[str, BaseDistribution]
    given: dict[str, BaseDistribution]

    def notes(self) -> list[str]:
        """Say which ranges were widened, and which bests lie at an end of theirs all the same."""
        lines = [
            f"{key}: searched in {words(among)}, widened from {words(self.given[key])}"
            for key, among in self.space.items()
            if among != self.given[key]
        ]
        for key, among in self.space.items():
            end = end_of(among, self.trials[0].values[key])
            if end is not None:
                lines.append(
                    f"{key}: the best lies at the {end} end of {words(among)}; widen that range in [search], where "
                    "values beyond make sense, and tune again"
                )
        return lines


def tune(
    benchmark: str,
    strategy: str,
    trials: int,
    seeds: Sequence[int] = (1000,),
    *,
    changes: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    data_root: Path | None = None,
    out: str | Path = "tuning",
    memory: int | None = None,
    force: bool = False,
    workers: int = 1,
    listener: Callable[[Trial], None] = lambda trial: None,
) -> Search:
    """Try hyper-parameters from the recipe's ``[search]`` table.

    The first trial is the recipe without what its ``[on.…]`` tables say of the searched keys, then a third are random,
    and the rest are drawn where a Gaussian process expects the most improvement (optuna's ``GPSampler``, seeded with
    0). The figure of merit is the kind's, mean over the seeds: ACC on a sixth of each task's training data, which is
    held out, or the last training loss.

    From half of the trials on, a logarithmic range is widened by a third of its length wherever the best so far lies at
    an end of it. The number of trials stays as it is, so that it is the same for all strategies that are compared.

    Its runs are kept in folders named by a digest of all that decides them: the same search with as many workers asks
    for the same points, finds those it has finished and goes on with the others.

    Args:
        benchmark: name or path of a benchmark.
        strategy: name or path of a strategy with a ``[search]`` table.
        trials: number of points, the same for every strategy that is to be compared.
        seeds: tuning seeds, 1000 to 9999.
        changes: overrides, as for a run; not of what the search itself changes.
        dataset: replaces the benchmark's data set.
        data_root: where data sets lie.
        out: folder of the trials' runs.
        memory: a budget in bytes that each trial is sized to; the knob is not searched then, and a point whose other
            values leave it no room counts as stopped.
        force: repeat what is finished.
        workers: processes.
        listener: called with each finished trial.

    Raises:
        UserError: bad input, such as seeds that reports use, or a recipe without a search space.
        WorkStoppedError: every trial stopped.
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: at least 1")
    for seed in seeds:
        if seed not in TUNING_SEEDS:
            raise UserError(f"seed {seed} is not a tuning seed: tune on 1000…9999, which no report shows")
    kind = kind_of(load_benchmark(benchmark).kind)
    if kind.merit is None:
        known = ", ".join(name for name, other in KINDS.items() if other.merit is not None)
        raise UserError(f"benchmark '{benchmark}' is of kind {kind.name}; ong tune searches for kinds {known}")
    merit, higher = kind.merit, kind.merit.better == "higher"
    recipe = load_strategy(strategy, kind.name)
    budgets, turned = ([memory], knobs(recipe)[:1]) if memory else ([], [])
    if budgets and not turned:
        raise UserError(f"strategy '{strategy}' has no knob of memory; tune it without --memory")
    given = {key: read_range(key, part) for key, part in recipe.search.items() if key not in turned}
    if own := sorted(set(changes or {}) & {*merit.changes, *given}):
        raise UserError(f"--set {own[0]}: the search sets this itself; leave it out")
    if not given:
        raise UserError(f"strategy '{strategy}' has no [search] table: nothing to tune")

    def jobs(values: Mapping[str, Any]) -> list[Job]:
        both = dict(changes or {}) | dict(merit.changes) | dict(values)
        whole = Path(out).absolute()
        planned = plan(benchmark, [strategy], seeds, both, dataset, data_root, whole, force=force, memory=budgets)
        folder = planned[0].out / planned[0].recipes[:_DIGITS]
        return [replace(job, out=folder) for job in planned]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space, done = given, list[Trial]()
    study = _study(trials, space, done, higher=higher)
    study.enqueue_trial({key: present(recipe, key, among) for key, among in given.items()})
    for job in jobs({}):
        check(job)
    at_once = max(1, workers // len(seeds))
    with Workers(workers) as pool:
        while len(done) < trials:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # infinite scores count as the worst finite one
                asked = [study.ask(space) for _ in range(min(at_once, trials - len(done)))]
            points = [{key: rounded(value) for key, value in t.params.items()} for t in asked]
            planned = [_jobs_or_why_not(jobs, values) for values in points]
            distinct = {job.folder.path: job for part in planned if not isinstance(part, str) for job in part}
            outcomes = _outcomes(distinct, pool if workers > 1 else None)
            for place, trial in enumerate(asked):
                part = planned[place]
                if isinstance(part, str):
                    done.append(Trial(points[place], math.nan, part))
                else:
                    runs = [outcomes[job.folder.path] for job in part]
                    scores = [math.nan if o.record is None else o.record["metrics"][merit.metric] for o in runs]
                    score = sum(scores) / len(scores)
                    done.append(Trial(points[place], score, next((o.failure for o in runs if o.failure), None)))
                study.tell(trial, _told(done[-1], higher=higher))
                listener(done[-1])
            best = _best_first(done, higher=higher)[0]
            if trials > len(done) >= trials / 2 and not math.isnan(best.score):
                wider = widened(space, best.values)
                if wider != space:
                    space, study = wider, _study(trials, wider, done, higher=higher)
    if all(math.isnan(trial.score) for trial in done):
        raise WorkStoppedError(f"every trial stopped, the last one so: {done[-1].failure}")
    return Search(_best_first(done, higher=higher), space, given)


def _outcomes(jobs: Mapping[Path, Job], pool: Workers | None) -> dict[Path, Outcome]:
    """Do runs, in this process without a pool.

    Raises:
        WorkStoppedError: a worker died, which says nothing of a trial.
    """
    if pool is None:
        return {path: perform(job) for path, job in jobs.items()}
    asked = {path: (pool.submit(job), job) for path, job in jobs.items()}
    outcomes = {path: outcome_of(future, job) for path, (future, job) in asked.items()}
    lost = next((outcome.failure for outcome in outcomes.values() if outcome.lost), None)
    if lost is not None:
        raise WorkStoppedError(lost)
    return outcomes


def _jobs_or_why_not(jobs: Callable[[Mapping[str, Any]], list[Job]], values: Mapping[str, Any]) -> list[Job] | str:
    """Return a point's jobs, or why it does not fit its budget of memory."""
    try:
        return jobs(values)
    except DoesNotFitError as error:
        return str(error)


def _best_first(done: Sequence[Trial], *, higher: bool) -> list[Trial]:
    return sorted(done, key=lambda trial: -_told(trial, higher=True) if higher else _told(trial, higher=False))


def _told(trial: Trial, *, higher: bool) -> float:
    """Return a trial's score; one that stopped is as bad as can be."""
    return trial.score if not math.isnan(trial.score) else -math.inf if higher else math.inf


def _study(trials: int, space: Mapping[str, BaseDistribution], done: Sequence[Trial], *, higher: bool) -> optuna.Study:
    """Return a study that knows what was done; optuna uses only trials of the very same ranges."""
    study = optuna.create_study(direction="maximize" if higher else "minimize", sampler=_sampler(trials))
    for trial in done:
        if all(holds(among, trial.values[key]) for key, among in space.items()):
            study.add_trial(
                optuna.trial.create_trial(
                    params=trial.values, distributions=dict(space), value=_told(trial, higher=higher)
                )
            )
    return study


def _sampler(trials: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=0, n_startup_trials=1 + trials // 3, deterministic_objective=True)


def write_block(path: Path, benchmark: str, values: Mapping[str, Any], told: str) -> None:
    """Put values into the ``[on.BENCHMARK]`` table of a recipe file, everything else left as it is.

    Args:
        path: the file.
        benchmark: the benchmark's name.
        values: dotted keys and their values.
        told: how they were found, which becomes a comment.

    Raises:
        UserError: the file cannot be written to; it stays as it was.
        WorkStoppedError: the disk is full; likewise.
    """
    present = read_toml(path, "strategy recipe").get("on", {})
    if not isinstance(present, dict) or not isinstance(present.get(benchmark, {}), dict):
        raise UserError(f"strategy recipe '{path}': 'on' and 'on.{benchmark}' must be tables")
    try:
        document = tomlkit.parse(read_text(path, "strategy recipe"))
    except (tomlkit.exceptions.TOMLKitError, RecursionError) as error:
        raise UserError(f"the strategy recipe '{path}' cannot be changed: {error}") from None
    tables = document.setdefault("on", tomlkit.table(is_super_table=True))
    block = tables.setdefault(benchmark, tomlkit.table())
    block.comment(told)
    for key, value in values.items():
        block[key] = value
    write_text(path, tomlkit.dumps(document))
