"""The commands that train a benchmark's runs."""

from __future__ import annotations

import shlex

from ong.report.runs import Runs, unsized

__all__ = ["commands"]


def commands(runs: Runs) -> list[str]:
    """Return `ong run` of the strategies shown, a line for each set of seeds and budget of memory.

    They take today's recipes; what was set by hand is in the recipes of the records.
    """
    together: dict[tuple[tuple[int, ...], int | None], list[str]] = {}
    for name in runs.strategies:
        records = runs.of(name)
        together.setdefault((tuple(r.seed for r in records), records[0].budget), []).append(unsized(name))
    return [_command(runs.benchmark, sorted(names), *key) for key, names in sorted(together.items(), key=_order)]


def _order(item: tuple[tuple[tuple[int, ...], int | None], list[str]]) -> tuple[int, int]:
    (seeds, budget), _ = item
    return budget or 0, -len(seeds)


def _command(benchmark: str, names: list[str], seeds: tuple[int, ...], budget: int | None) -> str:
    counted = ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")
    memory = "" if budget is None else f" --memory {budget / 1e6:g}MB"
    return f"ong run {shlex.join([benchmark, *names])} --seeds {counted}{memory}"
