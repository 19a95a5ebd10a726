"""From what a user asks for to the jobs that do it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ong.errors import UnknownNameError, UserError
from ong.experiments.arguments import LARGEST_SEED
from ong.experiments.devices import check_device_name
from ong.experiments.jobs import Job
from ong.experiments.kinds import kind_of
from ong.experiments.loggers import with_loggers
from ong.experiments.memory import DoesNotFitError, Rehearsals, at_budgets, knobs
from ong.experiments.recipes import list_recipes, load_benchmark, load_strategy, override
from ong.experiments.schema import ContinualBenchmark, DatasetRecipe
from ong.streams import DATASETS
from ong.waiting import waiting

__all__ = ["plan"]


def _say_nothing(line: str) -> None:
    """Do nothing."""


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
    device: str | None = None,
    memory: Sequence[int] = (),
    loggers: Sequence[str] = (),
    tell: Callable[[str], None] = _say_nothing,
) -> list[Job]:
    """Return a job for each strategy and seed, recipes read and overrides applied.

    Args:
        benchmark: name or path of a benchmark.
        strategies: names or paths of strategies; by default those the benchmark's recipe lists, or else its
            kind's, without those that its nets are too large for.
        seeds: different ones, from 0 to 2³² − 1.
        changes: dotted keys and their values; keys of a benchmark go there, all others to every strategy.
        dataset: replaces the benchmark's data set.
        data_root: where data sets lie.
        out: folder of all runs.
        force: repeat what is finished.
        device: replaces the benchmark's device.
        memory: budgets in bytes, to each of which strategies are sized (:func:`ong.experiments.memory.at_budgets`).
        loggers: names of loggers, or ``module:Class``, besides the benchmark's.
        tell: called with a line on each default strategy that is left out, and on each that is sized.

    Raises:
        UserError: anything that is wrong with these.
    """
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"seed {seed}: a seed is a whole number from 0 to {LARGEST_SEED}")
        if list(seeds).count(seed) > 1:
            raise UserError(f"seed {seed} is given twice")
    learned = load_benchmark(benchmark)
    kind = kind_of(learned.kind)
    changes = dict(changes or {})
    if dataset is not None:
        if "dataset" not in kind.benchmark.model_fields:
            raise UserError(f"--dataset {dataset}: benchmark '{learned.name}' of kind {kind.name} has no data set")
        changes["dataset"] = dataset
    if device is not None:
        if not hasattr(getattr(learned, "training", None), "device"):
            raise UserError(f"--device {device}: benchmark '{learned.name}' of kind {kind.name} runs on the CPU only")
        check_device_name(device)
        changes["training.device"] = device
    of_benchmark = {key: changes.pop(key) for key in list(changes) if key.split(".")[0] in kind.benchmark.model_fields}
    original = learned
    learned = override(learned, {"loggers": with_loggers(learned.loggers, loggers)})
    learned = override(learned, of_benchmark)
    other_data = _labels(getattr(learned, "dataset", []))
    if "dataset" in of_benchmark and other_data not in ([], _labels(getattr(original, "dataset", []))):
        learned = override(learned, {"name": "-".join([learned.name, *other_data])})  # another benchmark
    if learned.tuned_as is not None and learned.tuned_as not in list_recipes("benchmarks"):
        raise UnknownNameError("benchmark in tuned_as", learned.tuned_as, list_recipes("benchmarks"))
    names = strategies or learned.strategies or kind.defaults or list_recipes(kind.folder)
    recipes = [load_strategy(name, kind.name) for name in names]
    for key in changes:
        if key.split(".")[0] not in kind.strategy.model_fields:
            settings = (learned.model_dump(), *(recipe.settings() for recipe in recipes))
            if whole := next((k for each in settings for k in _keys(each) if k.endswith(f".{key}")), None):
                raise UserError(f"unknown recipe key '{key}'; did you mean '{whole}'?")
            known = [*kind.benchmark.model_fields, *kind.strategy.model_fields]
            raise UnknownNameError("recipe key", key.split(".")[0], known)
    if memory and not isinstance(learned, ContinualBenchmark):
        raise UserError(f"--memory: strategies of kind {kind.name} keep nothing from task to task")
    jobs = []
    for strategy in waiting(recipes, "sizing strategies") if memory else recipes:
        recipe_at = partial(_tuned, strategy, (learned.name, original.name, learned.tuned_as or ""), changes)
        tuned = recipe_at("")
        reason = kind.why_not(learned, tuned)
        if reason is not None:
            if strategies:
                raise UserError(f"strategy '{tuned.name}' cannot run on '{learned.name}': {reason}")
            tell(f"{tuned.name} is left out: {reason}")
            continue
        chosen = [tuned]
        if memory and isinstance(learned, ContinualBenchmark):
            rehearsals = Rehearsals(learned, data_root, Path(out) / ".rehearsals")
            if both := [knob for knob in knobs(tuned)[:1] if knob in changes]:
                raise UserError(f"--set {both[0]}: --memory sets this itself; leave one of them out")
            try:
                chosen = at_budgets(recipe_at, memory, rehearsals, tell)
            except DoesNotFitError as error:
                if strategies:
                    raise
                tell(f"{strategy.name} is left out: {error}")
                continue
        jobs += [Job(learned, each, seed, Path(out), data_root, force) for each in chosen for seed in seeds]
    runs = [(job.strategy.name, job.seed) for job in jobs]
    if len(set(runs)) < len(runs):
        twice = next(run for run in runs if runs.count(run) > 1)[0]
        raise UserError(f"strategy '{twice}' is asked for twice; give each recipe a name of its own")
    return jobs


def _labels(dataset: str | DatasetRecipe | list[str | DatasetRecipe]) -> list[str]:
    """Return what to call data sets; nothing for names that there are not, which the run refuses."""
    parts = dataset if isinstance(dataset, list) else [dataset]
    labels = [part.label if isinstance(part, DatasetRecipe) else part for part in parts]
    known = all(isinstance(part, DatasetRecipe) or part in DATASETS for part in parts)
    return labels if known else []


def _tuned(strategy: Any, benchmarks: Sequence[str], changes: Mapping[str, Any], budget: str) -> Any:
    """Return a strategy with the values that suit a benchmark, those that suit a budget too, and the changes.

    Knobs that the last two set are not turned to meet the budget.
    """
    blocks: list[dict[str, Any]] = [
        next((strategy.on[name + at] for name in benchmarks if name + at in strategy.on), {}) for at in (budget, "")
    ]
    chosen = blocks[0] | dict(changes)
    free = [knob for knob in knobs(strategy) if knob not in chosen]
    return override(strategy, blocks[1] | chosen | ({"memory.knob": free} if budget else {}))


def _keys(values: Any, start: str = "") -> Iterator[str]:
    """Yield the dotted keys of nested values."""
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield f"{start}{key}"
        yield from _keys(value, f"{start}{key}.")
