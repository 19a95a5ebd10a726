"""The runs of one benchmark, put side by side."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ong.metrics import Metric, average_accuracy
from ong.report.choice import Choice
from ong.report.records import Failure, HistoryRecord, Record
from ong.report.text import printable

__all__ = ["HistoryRuns", "Runs", "flatten", "unsized"]

TUNING_SEEDS_FROM = 1000
"""Hyper-parameters are tuned on seeds from here on, which are never reported."""

MOST_LINES = 8
"""A figure has no more lines besides those of references, unless they are chosen."""

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
        """The strategies that have a picture each: those chosen, or of one sized to several budgets the largest."""
        if self.choice.only:
            return self.strategies
        budgets = {name: self.of(name)[0].budget for name in self.strategies}
        most: dict[str, int] = {}
        for name, budget in budgets.items():
            if budget is not None:
                most[unsized(name)] = max(budget, most.get(unsized(name), 0))
        return [name for name, budget in budgets.items() if budget is None or budget == most[unsized(name)]]

    def drawn(self, names: Iterable[str]) -> list[str]:
        """Return which strategies of some, the best first, have a line in a figure, where references have theirs.

        All of those that were chosen; otherwise one of each name, without a budget where there is one, and of many the
        eight best, ``naive`` in the place of the last one.
        """
        competing = [name for name in names if not self.is_reference(name)]
        if self.choice.only:
            return competing
        own = [name for name in competing if name == unsized(name) or unsized(name) not in competing]
        best = own[:MOST_LINES]
        return [*best[:-1], "naive"] if "naive" in own and "naive" not in best else best

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
        records = self.of(strategy)  # none for a name without budget that only stands for some
        return self.tasks > 1 and bool(records) and all(np.isnan(r.matrix.after[:-1]).all() for r in records)

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


def _differences(recipes: Sequence[dict[str, Any]]) -> list[str]:
    """Name the keys in which recipes differ, with their values; seeds may differ."""
    flat = [flatten(recipe) for recipe in recipes]
    keys = [key for key in dict.fromkeys(k for recipe in flat for k in recipe) if key.split(".")[-1] != "seed"]
    values = {key: list(dict.fromkeys(repr(recipe.get(key)) for recipe in flat)) for key in keys}
    return [f"{key} = {' or '.join(seen)}" for key, seen in values.items() if len(seen) > 1]
