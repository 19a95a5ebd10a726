"""The runs of one benchmark, put side by side.

A single record cannot know two of its metrics: ``intransigence`` compares with training each task alone and
``recovered`` with naive and joint training. Here they are filled in from the records of the same seed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ong.errors import UserError
from ong.metrics import METRICS, AccuracyMatrix, Metric, all_metrics, average_accuracy
from ong.report.choice import Choice
from ong.report.records import Failure, HistoryRecord, Record, read_failure, read_record
from ong.report.text import printable

__all__ = ["HistoryRuns", "Runs", "flatten", "group", "read_runs", "unsized", "with_sibling_metrics"]

TUNING_SEEDS_FROM = 1000
"""Hyper-parameters are tuned on seeds from here on, which are never reported."""

FEWEST_SEEDS = 5
"""A published comparison has at least so many seeds."""


@dataclass(frozen=True, eq=False)
class Runs:
    """All records and failures of one benchmark, records ordered by strategy and seed, and what is shown of them.

    Attributes:
        metrics: those that were computed beside the usual ones.
    """

    benchmark: str
    records: tuple[Record, ...]
    failures: tuple[Failure, ...] = ()
    remarks: tuple[str, ...] = ()
    choice: Choice = field(default_factory=Choice)
    metrics: tuple[Metric, ...] = ()

    @property
    def tasks(self) -> int:
        """T, the number of tasks."""
        return self.records[0].matrix.tasks

    @property
    def names(self) -> list[str]:
        """The names of all strategies, sorted."""
        return sorted({record.strategy_name for record in self.records})

    @property
    def strategies(self) -> list[str]:
        """The names of the strategies shown: those chosen, or all by mean ``ACC`` from the best down."""
        names = self.names
        if self.choice.only:
            return [name for name in self.choice.only if name in names]
        return sorted(names, key=self._mean_accuracy, reverse=True)

    def label(self, strategy: str) -> str:
        """Return the name to print for a strategy."""
        return printable(self.choice.labels.get(strategy, strategy))

    @property
    def pictured(self) -> list[str]:
        """The strategies that have a picture each: of one sized to several budgets of memory the largest."""
        budgets = {name: self.of(name)[0].budget for name in self.strategies}
        most: dict[str, int] = {}
        for name, budget in budgets.items():
            if budget is not None:
                most[unsized(name)] = max(budget, most.get(unsized(name), 0))
        return [name for name, budget in budgets.items() if budget is None or budget == most[unsized(name)]]

    @property
    def seeds(self) -> list[int]:
        """Every seed that some strategy has."""
        return sorted({record.seed for record in self.records})

    def of(self, strategy: str) -> list[Record]:
        """Return the records of one strategy, by seed."""
        return [record for record in self.records if record.strategy_name == strategy]

    @property
    def references(self) -> list[str]:
        """Strategies shown that are references, and do not compete with the others."""
        return [name for name in self.strategies if self.is_reference(name)]

    def is_reference(self, strategy: str) -> bool:
        """Return whether a strategy is joint training, under whatever name, or trains a net a task."""
        return strategy in ("joint", "scratch") or self._at_once(strategy)

    def _at_once(self, strategy: str) -> bool:
        """Return whether a strategy has all tasks at once, under whatever name: R then has a last row only."""
        return self.tasks > 1 and all(np.isnan(record.matrix.after[:-1]).all() for record in self.of(strategy))

    def needs(self, strategy: str) -> str:
        """Return what a strategy needs that others do without, in words; empty if nothing."""
        return "; ".join(dict.fromkeys(need for record in self.of(strategy) for need in record.needs))

    def notes(self) -> list[str]:
        """Return what a reader must know before comparing: few seeds, tuning seeds, recipes that differ."""
        notes = list(self.remarks)
        counts = Counter(record.strategy_name for record in self.records)
        few = [f"{self.label(name)} ({counts[name]})" for name in self.strategies if counts[name] < FEWEST_SEEDS]
        if few:
            notes.append(f"Fewer than {FEWEST_SEEDS} seeds: {', '.join(few)}.")
        tuning = [str(seed) for seed in self.seeds if seed >= TUNING_SEEDS_FROM]
        if tuning:
            notes.append(f"Tuning seeds (≥ {TUNING_SEEDS_FROM}) are not for reporting: {', '.join(tuning)}.")
        if any(record.benchmark.get("training", {}).get("validation") for record in self.records):
            notes.append("Runs with training.validation are judged by held-out training data, not by test data.")
        for differs in _differences([record.benchmark for record in self.records]):
            notes.append(f"The benchmark's recipe differs between records: {differs}.")
        for name in self.strategies:
            for differs in _differences([record.strategy for record in self.of(name)]):
                notes.append(f"The recipe of {self.label(name)} differs between seeds: {differs}.")
        if "scratch" in self.strategies:
            notes.append("scratch trains a fresh net for each task: only its learning accuracy compares.")
        return notes

    def _mean_accuracy(self, strategy: str) -> float:
        mean = np.mean([average_accuracy(record.matrix) for record in self.of(strategy)])
        return float(np.nan_to_num(mean, nan=-1.0))


@dataclass(frozen=True)
class HistoryRuns:
    """All records and failures of one benchmark that is not a sequence of tasks, ordered by strategy and seed."""

    benchmark: str
    kind: str
    records: tuple[HistoryRecord, ...]
    failures: tuple[Failure, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def strategies(self) -> list[str]:
        """The strategies' names, sorted."""
        return sorted({record.strategy_name for record in self.records})

    @property
    def seeds(self) -> list[int]:
        """Every seed that some strategy has."""
        return sorted({record.seed for record in self.records})

    def of(self, strategy: str) -> list[HistoryRecord]:
        """Return the records of one strategy, by seed."""
        return [record for record in self.records if record.strategy_name == strategy]

    def notes(self) -> list[str]:
        """Return what a reader must know before comparing: recipes that differ, few seeds."""
        notes = list(self.remarks)
        if len(self.seeds) < FEWEST_SEEDS:
            notes.append(f"Fewer than {FEWEST_SEEDS} seeds: {', '.join(map(str, self.seeds))}.")
        for differs in _differences([record.benchmark for record in self.records]):
            notes.append(f"The benchmark's recipe differs between records: {differs}.")
        for name in self.strategies:
            for differs in _differences([record.strategy for record in self.of(name)]):
                notes.append(f"The recipe of {name} differs between seeds: {differs}.")
        return notes


def read_runs(directory: Path | str, metrics: Sequence[Metric] = ()) -> list[Runs | HistoryRuns]:
    """Read every ``record.json`` and ``failure.json`` under a directory.

    A failure beside a record is left out: the run was repeated and finished. Runs that have neither, as interrupted
    ones and those under way, are named in the notes.

    Args:
        directory: where the records lie.
        metrics: what is computed beside the usual metrics.

    Returns:
        One :class:`Runs` (or :class:`HistoryRuns`) for each benchmark, by name, with the sibling metrics filled in.

    Raises:
        UserError: if the directory is missing or has no records, or as
            :func:`read_record` and :func:`group` say.
    """
    directory = Path(directory)
    if directory.is_file():
        raise UserError(f"{directory} is a file; give a folder that `ong run` wrote, such as runs/")
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give one that `ong run` wrote, such as runs/")
    records = [read_record(path) for path in sorted(directory.rglob("record.json"))]
    failed = [p for p in sorted(directory.rglob("failure.json")) if not p.with_name("record.json").exists()]
    failures = [read_failure(path) for path in failed]
    waiting = [path for path in sorted(directory.rglob("seed-*")) if path.is_dir() and not _ended(path)]
    if not records:
        said = f" ({len(failures)} failed, the first: {failures[0].message})" if failures else ""
        said += f" ({len(waiting)} not finished: the same command goes on with them)" if waiting else ""
        raise UserError(f"{directory}: no record.json under it{said}; make one with `ong run BENCHMARK STRATEGY`")
    return group(records, failures, waiting, metrics)


def group(
    records: Iterable[Record | HistoryRecord],
    failures: Iterable[Failure] = (),
    waiting: Iterable[Path] = (),
    metrics: Sequence[Metric] = (),
) -> list[Runs | HistoryRuns]:
    """Group records and failures by benchmark and fill in the sibling metrics.

    A benchmark of which no run finished has no section; the first one's notes name it.

    Args:
        records: the finished runs.
        failures: those that ended early.
        waiting: folders ``BENCHMARK/STRATEGY/seed-S`` of runs that have not ended.
        metrics: what is computed beside the usual metrics.

    Raises:
        UserError: if a strategy and seed occur twice in a benchmark, or its records differ in the number
            of tasks.
    """
    by_name: dict[str, list[Record | HistoryRecord]] = {}
    for record in records:
        by_name.setdefault(record.benchmark_name, []).append(record)
    failed = list(failures)
    lost: dict[str, list[Failure]] = {}
    for failure in failed:
        if failure.benchmark_name not in by_name:
            lost.setdefault(failure.benchmark_name, []).append(failure)
    open_runs: dict[str, list[str]] = {}
    for folder in map(Path.resolve, waiting):
        seed = folder.name.removeprefix("seed-")
        open_runs.setdefault(folder.parent.parent.name, []).append(f"{folder.parent.name} (seed {seed})")
    remarks = [_lost(name, of_benchmark) for name, of_benchmark in sorted(lost.items())]
    remarks += [_unfinished(open_runs[name], name) for name in sorted(open_runs) if name not in by_name]
    runs: list[Runs | HistoryRuns] = []
    for name, members in sorted(by_name.items()):
        _check_comparable(members)
        members.sort(key=lambda record: (record.strategy_name, record.seed))
        of_benchmark = tuple(failure for failure in failed if failure.benchmark_name == name)
        here = [_unfinished(open_runs[name])] if name in open_runs else []
        said = (*([] if runs else remarks), *here)
        continual = [record for record in members if isinstance(record, Record)]
        others = tuple(record for record in members if isinstance(record, HistoryRecord))
        if others:
            runs.append(HistoryRuns(name, others[0].kind, others, of_benchmark, said))
        else:
            filled = tuple(with_sibling_metrics(continual, metrics))
            runs.append(Runs(name, filled, of_benchmark, said, metrics=tuple(metrics)))
    return runs


def with_sibling_metrics(records: Sequence[Record], metrics: Sequence[Metric] = ()) -> list[Record]:
    """Return the records with every metric, ``intransigence`` and ``recovered`` from those of the same seed.

    The records are of one benchmark; one of another recipe for it is no sibling. All metrics of
    :data:`ong.metrics.METRICS` and those given are computed anew from R, so that a report prints what its formulas say;
    other entries of ``metrics`` are kept.
    """
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(record.seed, []).append(record)
    chosen = [*METRICS.values(), *metrics]
    filled = []
    for record in records:
        others: Mapping[str, AccuracyMatrix] = {
            other.strategy_name: other.matrix for other in by_seed[record.seed] if other.is_of_same_benchmark(record)
        }
        found = all_metrics(record.matrix, others, chosen)
        kept = {name: value for name, value in record.metrics.items() if name not in found}
        filled.append(record.model_copy(update={"metrics": found | kept}))
    return filled


def flatten(recipe: object, prefix: str = "") -> dict[str, Any]:
    """Return nested tables and lists of tables as dotted keys, the way ``--set`` writes them.

    ``{"plugins": [{"damping": 0.1}]}`` becomes ``{"plugins.0.damping": 0.1}``; lists of plain
    values stay whole.
    """
    if isinstance(recipe, dict):
        items = [(str(key), value) for key, value in recipe.items()]
    elif isinstance(recipe, list) and any(isinstance(x, dict | list) for x in recipe):
        items = [(str(i), value) for i, value in enumerate(recipe)]
    else:
        return {prefix: recipe}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= flatten(value, f"{prefix}.{key}" if prefix else key)
    return flat


def unsized(strategy: str) -> str:
    """Return a strategy's name without the budget of memory it was sized to: ``ogd`` of ``ogd@4MB``."""
    return re.sub(r"@[\d.]+[kMG]B", "", strategy)


def _lost(benchmark: str, failures: Sequence[Failure]) -> str:
    first = failures[0]
    what = f"the first ({first.strategy}, seed {first.seed}): {first.message}"
    return f"No run of {benchmark} finished; {len(failures)} failed, {what}."


def _ended(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("record.json", "failure.json"))


def _unfinished(runs: Sequence[str], benchmark: str = "") -> str:
    where = f" of {benchmark}" if benchmark else ""
    return f"Not finished{where}: {', '.join(runs)}; the same command goes on with them."


def _check_comparable(records: Sequence[Record | HistoryRecord]) -> None:
    first: dict[tuple[str, int], Record | HistoryRecord] = {}
    for record in records:
        twin = first.setdefault((record.strategy_name, record.seed), record)
        if twin is not record:
            raise UserError(
                f"{record.path} and {twin.path}: both are {record.benchmark_name}, {record.strategy_name}, "
                f"seed {record.seed}; report them from separate directories"
            )
        other = records[0]
        if record.kind != other.kind:
            raise UserError(
                f"{record.path} is of kind {record.kind}, but {other.path} of the same benchmark of kind {other.kind}; "
                "report them from separate directories"
            )
        if isinstance(record, Record) and isinstance(other, Record) and record.matrix.tasks != other.matrix.tasks:
            raise UserError(
                f"{record.path}: {record.matrix.tasks} tasks, but {other.path} of the same benchmark "
                f"has {other.matrix.tasks}; report them from separate directories"
            )


def _differences(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Name the keys in which recipes differ, with their values; seeds may differ."""
    flat = [flatten(recipe) for recipe in recipes]
    keys = [key for key in dict.fromkeys(k for recipe in flat for k in recipe) if key.split(".")[-1] != "seed"]
    values = {key: list(dict.fromkeys(repr(recipe.get(key)) for recipe in flat)) for key in keys}
    return [f"{key} = {' or '.join(seen)}" for key, seen in values.items() if len(seen) > 1]
