"""From what a user asks for to the jobs that do it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ong.errors import UnknownNameError, UserError
from ong.experiments.recipes import (
    BenchmarkRecipe,
    StrategyRecipe,
    load_benchmark,
    load_strategy,
    override,
)
from ong.experiments.sweep import Job

__all__ = ["DEFAULT_STRATEGIES", "plan"]

DEFAULT_STRATEGIES = ("naive", "ewc", "ogd", "ong", "ong-prior", "joint")


def plan(
    benchmark: str,
    strategies: Sequence[str] | None,
    seeds: Sequence[int],
    changes: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    data_root: Path | None = None,
    out: str | Path = "runs",
    *,
    force: bool = False,
) -> list[Job]:
    """Return a job for each strategy and seed, recipes read and overrides applied.

    Args:
        benchmark: name or path of a benchmark.
        strategies: names or paths of strategies; :data:`DEFAULT_STRATEGIES` by default.
        seeds: seeds, none negative.
        changes: dotted keys and their values; keys of a benchmark go there, all others to every strategy.
        dataset: replaces the benchmark's data set.
        data_root: where data sets lie.
        out: folder of all runs.
        force: repeat what is finished.

    Raises:
        UserError: anything that is wrong with these.
    """
    for seed in seeds:
        if seed < 0:
            raise UserError(f"seed {seed}: seeds must not be negative")
    learned = load_benchmark(benchmark)
    changes = dict(changes or {})
    if dataset is not None:
        changes["dataset"] = dataset
    of_benchmark = {key: changes.pop(key) for key in list(changes) if key.split(".")[0] in BenchmarkRecipe.model_fields}
    for key in changes:
        if key.split(".")[0] not in StrategyRecipe.model_fields:
            known = [*BenchmarkRecipe.model_fields, *StrategyRecipe.model_fields]
            raise UnknownNameError("recipe key", key.split(".")[0], known)
    learned = override(learned, of_benchmark)
    jobs = []
    for name in strategies or DEFAULT_STRATEGIES:
        strategy = load_strategy(name)
        tuned = override(strategy, strategy.on.get(learned.name, {}))
        tuned = override(tuned, changes)
        jobs += [Job(learned, tuned, seed, Path(out), data_root, force) for seed in seeds]
    names = [(job.strategy.name, job.seed) for job in jobs]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)[0]
        raise UserError(f"strategy '{twice}' is asked for twice; give each recipe a name of its own")
    return jobs
