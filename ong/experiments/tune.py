"""Search for a strategy's hyper-parameters on a benchmark, on seeds that are never reported."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import optuna
import tomlkit
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ong.errors import UserError, WorkStoppedError
from ong.experiments.kinds import KINDS, kind_of
from ong.experiments.plan import plan
from ong.experiments.recipes import load_benchmark, load_strategy
from ong.experiments.schema import StrategyRecipe
from ong.experiments.store import fingerprint
from ong.experiments.sweep import Job, check, perform_in_worker, watched

__all__ = ["TUNING_SEEDS", "Trial", "tune", "write_block"]

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


def _distribution(key: str, space: Mapping[str, Any]) -> BaseDistribution:
    """Read ``{ low, high, log }`` (whole numbers stay whole) or ``{ choices }``."""
    try:
        if set(space) == {"choices"}:
            return CategoricalDistribution(list(space["choices"]))
        low, high = space["low"], space["high"]
        if set(space) - {"low", "high", "log"}:
            raise ValueError(f"unknown key {sorted(set(space) - {'low', 'high', 'log'})[0]}")
        kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
        return kind(low, high, log=bool(space.get("log", False)))
    except (KeyError, TypeError, ValueError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise UserError(f"[search] '{key}': give low and high (log if wanted), or choices, a list; {what}") from None


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
    force: bool = False,
    workers: int = 1,
    listener: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try hyper-parameters from the recipe's ``[search]`` table and return the trials, best first.

    The first trial is the recipe as it stands, then a third are random, and the rest are drawn where a Gaussian process
    expects the most improvement (optuna's ``GPSampler``, seeded with 0). The figure of merit is the kind's (ACC, or the
    last training loss), mean over the seeds.

    Its runs are kept in folders named by a digest of all that decides them: the same search with as many workers asks
    for the same points, finds those it has finished and goes on with the others.

    Args:
        benchmark: name or path of a benchmark.
        strategy: name or path of a strategy with a ``[search]`` table.
        trials: number of points, the same for every strategy that is to be compared.
        seeds: tuning seeds, 1000 to 9999.
        changes: overrides, as for a run.
        dataset: replaces the benchmark's data set.
        data_root: where data sets lie.
        out: folder of the trials' runs.
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
    metric, higher = kind.merit.metric, kind.merit.better == "higher"
    space = {key: _distribution(key, part) for key, part in load_strategy(strategy, kind.name).search.items()}
    if not space:
        raise UserError(f"strategy '{strategy}' has no [search] table: nothing to tune")

    def jobs(values: Mapping[str, Any]) -> list[Job]:
        both = dict(changes or {}) | dict(values)
        planned = plan(benchmark, [strategy], seeds, both, dataset, data_root, Path(out).absolute(), force=force)
        decides = {"benchmark": planned[0].benchmark.settings(), "strategy": planned[0].strategy.settings()}
        folder = planned[0].out / fingerprint(decides)[:_DIGITS]
        return [replace(job, out=folder) for job in planned]

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize" if higher else "minimize", sampler=_sampler(trials))
    done: list[Trial] = []
    first = jobs({})
    study.enqueue_trial({key: _present(first[0].strategy, key, among) for key, among in space.items()})
    for job in first:
        check(job)
    at_once = max(1, workers // len(seeds))
    with joblib.Parallel(n_jobs=workers) as parallel:
        while len(done) < trials:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # infinite scores count as the worst finite one
                asked = [study.ask(space) for _ in range(min(at_once, trials - len(done)))]
            points = [{key: _rounded(value) for key, value in t.params.items()} for t in asked]
            with watched():
                planned = [jobs(values) for values in points]
                distinct = {job.folder.path: job for part in planned for job in part}
                done_now = parallel(joblib.delayed(perform_in_worker)(job, os.getpid()) for job in distinct.values())
                outcomes = dict(zip(distinct, done_now, strict=True))
            for place, trial in enumerate(asked):
                own = [outcomes[job.folder.path] for job in planned[place]]
                scores = [math.nan if o.record is None else o.record["metrics"][metric] for o in own]
                score = sum(scores) / len(scores)
                stopped = -math.inf if higher else math.inf  # as bad as the worst trial
                study.tell(trial, stopped if math.isnan(score) else score)
                done.append(Trial(points[place], score, next((o.failure for o in own if o.failure), None)))
                listener(done[-1])
    if all(math.isnan(trial.score) for trial in done):
        raise WorkStoppedError(f"every trial stopped, the last one so: {done[-1].failure}")
    return sorted(done, key=lambda t: math.inf if math.isnan(t.score) else -t.score if higher else t.score)


def _rounded(value: Any) -> Any:
    """Return a number with three digits, which are printed, tried and written."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _sampler(trials: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(seed=0, n_startup_trials=1 + trials // 3, deterministic_objective=True)


def _present(recipe: StrategyRecipe, key: str, among: BaseDistribution) -> Any:
    """Return what a recipe has now, which the search begins with."""
    place: Any = recipe.model_dump()
    try:
        for part in key.split("."):
            place = place[int(part)] if isinstance(place, list) else place[part]
    except (KeyError, IndexError, ValueError):
        raise UserError(f"[search] '{key}' is not a key of strategy '{recipe.name}'") from None
    if isinstance(among, CategoricalDistribution) and place not in among.choices:
        raise UserError(f"[search] '{key}': the recipe's own value {place!r} must be one of the choices")
    return place


def write_block(path: Path, benchmark: str, values: Mapping[str, Any]) -> None:
    """Put values into the ``[on.BENCHMARK]`` table of a recipe file, everything else left as it is."""
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    tables = document.setdefault("on", tomlkit.table(is_super_table=True))
    block = tables.setdefault(benchmark, tomlkit.table())
    for key, value in values.items():
        block[key] = value
    path.write_text(tomlkit.dumps(document), encoding="utf-8")
