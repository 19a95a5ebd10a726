"""One strategy's search, before it begins: what was asked for, checked, and the runs that try a point."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, IntDistribution

from ong.errors import UserError
from ong.experiments.environment import environment
from ong.experiments.jobs import Job
from ong.experiments.kinds import KINDS, Merit, kind_of
from ong.experiments.memory import budget_name, knobs
from ong.experiments.plan import plan
from ong.experiments.ranges import present, read_range
from ong.experiments.recipes import load_benchmark, load_strategy, recipe_path
from ong.experiments.schema import ContinualBenchmark
from ong.experiments.store import deciding

__all__ = ["TUNING_SEEDS", "Asked", "Problem", "deciding_parts", "problems"]

TUNING_SEEDS = range(1000, 10_000)
"""Seeds a search may use; reports use smaller ones."""


@dataclass(frozen=True)
class Asked:
    """What a user asks a search for.

    Attributes:
        benchmark: name or path of a benchmark.
        strategies: names or paths of strategies with a ``[search]`` table.
        trials: number of points, the same for every strategy.
        seeds: tuning seeds, 1000 to 9999.
        changes: overrides, as for a run; not of what the search itself changes.
        dataset: replaces the benchmark's data set.
        data_root: where data sets lie.
        out: folder of the trials and their runs.
        memory: a budget in bytes that each trial is sized to; the knob is not searched then, and a point whose other
            values leave it no room counts as stopped.
        at_once: trials of a strategy that are chosen together after the first four.
        prune: end a trial after a task where it is worse than half of the trials before it.
        force: begin anew; the trials that are there and their runs are removed.
    """

    benchmark: str
    strategies: Sequence[str]
    trials: int = 12
    seeds: Sequence[int] = (1000,)
    changes: Mapping[str, Any] | None = None
    dataset: str | None = None
    data_root: Path | None = None
    out: str | Path = "tuning"
    memory: int | None = None
    at_once: int = 1
    prune: bool = False
    force: bool = False


@dataclass(frozen=True)
class Problem:
    """One strategy's search.

    Attributes:
        asked: all that was asked for.
        strategy: name or path of the strategy.
        name: of the study, ``BENCHMARK/STRATEGY``, with ``@`` and the budget where there is one.
        recipe: the strategy's file.
        given: where its recipe says to look.
        first: the recipe's own point, without what its ``[on.…]`` tables say.
        merit: what is improved.
        about: what the study tells of itself.
    """

    asked: Asked
    strategy: str
    name: str
    recipe: Path
    given: dict[str, BaseDistribution]
    first: dict[str, Any]
    merit: Merit
    about: dict[str, Any]

    @property
    def label(self) -> str:
        """The strategy's name, and the budget."""
        return self.name.partition("/")[2]

    @property
    def block(self) -> str:
        """The name of the recipe's table that takes the values found: ``BENCHMARK`` or ``BENCHMARK@BUDGET``."""
        benchmark, budget = self.name.partition("/")[0], self.asked.memory
        return benchmark if budget is None else f"{benchmark}@{budget_name(budget)}"

    def jobs(self, values: Mapping[str, Any], folder: Path) -> list[Job]:
        """Return the runs that try a point, one a seed.

        Raises:
            DoesNotFitError: the point leaves no room in the budget.
        """
        whole = Path(self.asked.out).absolute()
        memory = [] if self.asked.memory is None else [self.asked.memory]
        return [replace(job, out=folder) for job in _planned(self.asked, self.strategy, values, whole, memory)]


def problems(asked: Asked) -> list[Problem]:
    """Check what was asked for.

    Raises:
        UserError: bad input, such as seeds that reports use, or a recipe without a search space.
    """
    for name, number in (("--trials", asked.trials), ("--at-once", asked.at_once)):
        if number < 1:
            raise UserError(f"{name} {number}: at least 1")
    for seed in asked.seeds:
        if seed not in TUNING_SEEDS:
            raise UserError(f"seed {seed} is not a tuning seed: tune on 1000…9999, which no report shows")
    learned = load_benchmark(asked.benchmark)
    kind = kind_of(learned.kind)
    if kind.merit is None:
        known = ", ".join(name for name, other in KINDS.items() if other.merit is not None)
        raise UserError(f"benchmark '{asked.benchmark}' is of kind {kind.name}; ong tune searches for kinds {known}")
    if asked.prune and not isinstance(learned, ContinualBenchmark):
        raise UserError(f"--prune: runs of kind {kind.name} have no tasks, after which a trial could be ended")
    found = [_problem(asked, strategy, kind.name, kind.merit) for strategy in asked.strategies]
    names = [problem.name for problem in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"'{twice}' is asked for twice; give each recipe a name of its own")
    return found


def _problem(asked: Asked, strategy: str, kind: str, merit: Merit) -> Problem:
    recipe = load_strategy(strategy, kind)
    turned = knobs(recipe)[:1] if asked.memory is not None else []
    if asked.memory is not None and not turned:
        raise UserError(f"strategy '{strategy}' has no knob of memory; tune it without --memory")
    given = {key: read_range(key, part) for key, part in recipe.search.items() if key not in turned}
    if own := sorted(set(asked.changes or {}) & {*merit.changes, *given}):
        raise UserError(f"--set {own[0]}: the search sets this itself; leave it out")
    if not given:
        raise UserError(f"strategy '{strategy}' has no [search] table: nothing to tune")
    first = {key: present(recipe, key, among) for key, among in given.items()}
    for key, among in given.items():
        if isinstance(among, IntDistribution) and not isinstance(first[key], int):
            raise UserError(f"[search] '{key}': whole numbers are searched, but the recipe's own value is {first[key]}")
    job = _planned(asked, strategy, first, Path(asked.out), [])[0]
    label = job.strategy.name if asked.memory is None else f"{job.strategy.name}@{budget_name(asked.memory)}"
    about = {
        "settings": {key: part for key, part in job.settings.items() if key != "seed"},
        "search": {key: dict(recipe.search[key]) for key in given},
        "seeds": list(asked.seeds),
        "memory": asked.memory,
        "at_once": asked.at_once,
        "prune": asked.prune,
        "metric": merit.metric,
        "better": merit.better,
        "means": merit.means,
        "near": merit.near,
        "command": _command(asked, strategy),
        "environment": environment() | {"optuna": version("optuna")},
    }
    path = recipe_path(strategy, kind_of(kind).folder)
    name = f"{job.benchmark.name}/{label}"
    return Problem(asked, strategy, name, path, given, first, merit, json.loads(json.dumps(about)))


def _planned(asked: Asked, strategy: str, values: Mapping[str, Any], out: Path, memory: Sequence[int]) -> list[Job]:
    kind = kind_of(load_benchmark(asked.benchmark).kind)
    fixed = kind.merit.changes if kind.merit is not None else {}
    changes = dict(asked.changes or {}) | dict(fixed) | dict(values)
    return plan(
        asked.benchmark,
        [strategy],
        asked.seeds,
        changes,
        asked.dataset,
        asked.data_root,
        out,
        memory=memory,
    )


def _command(asked: Asked, strategy: str) -> list[str]:
    """Return the command that makes the study, without the number of trials, which may grow."""
    options = ["--seeds", ",".join(map(str, asked.seeds)) + ("," if len(asked.seeds) == 1 else "")]
    for key, value in (asked.changes or {}).items():
        options += ["--set", f"{key}={value if isinstance(value, str) else json.dumps(value)}"]
    options += ["--dataset", asked.dataset] if asked.dataset is not None else []
    options += ["--memory", budget_name(asked.memory)] if asked.memory is not None else []
    options += ["--at-once", str(asked.at_once)] if asked.at_once != 1 else []
    options += ["--prune"] if asked.prune else []
    return [shlex.join(["ong", "tune", asked.benchmark, strategy]), shlex.join(options)]


def deciding_parts(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return, by what a message calls it, all that decides which points a study tries and how they are judged."""
    settings = deciding(dict(about["settings"]))
    return {
        "benchmark recipe": settings["benchmark"],
        "strategy recipe": settings["strategy"],
        "[search] table": about["search"],
        "--seeds": about["seeds"],
        "--memory": about["memory"],
        "--at-once": about["at_once"],
        "--prune": about["prune"],
        "figure of merit": (about["metric"], about["better"]),
    }
