"""Equal memory: a strategy sized to a budget of bytes by its own knob.

What a strategy keeps is measured, not modelled: in a rehearsal, the run itself with one step a task, which leaves as
many bytes as the whole run does.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ong.errors import UserError
from ong.experiments.recipes import override
from ong.experiments.schema import ContinualBenchmark, ContinualStrategy, StrategyRecipe
from ong.experiments.store import deciding, fingerprint
from ong.files import is_there, read_text, write_text

__all__ = [
    "DoesNotFitError",
    "Rehearsals",
    "at_budgets",
    "budget_name",
    "knobs",
    "read_budget",
    "read_budgets",
    "sized",
]

_FULL = 0.99  # of a budget: what leaves too little to look for more
_STRAIGHT = 5  # measurements after which the rest is halved
_UNITS = {"kB": 10**3, "MB": 10**6, "GB": 10**9}


class DoesNotFitError(UserError):
    """A strategy keeps more than a budget, whatever its knob."""


def read_budgets(text: str) -> list[int]:
    """Return the bytes of ``4MB`` or ``500kB,1MB,2MB``; MB is 10⁶ bytes.

    Raises:
        UserError: anything else.
    """
    return list(dict.fromkeys(map(read_budget, text.split(","))))


def read_budget(text: str) -> int:
    """Return the bytes of ``4MB``.

    Raises:
        UserError: anything else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(kB|MB|GB)\s*", text)
    budget = round(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not budget:
        raise UserError(f"--memory '{text.strip()}': give a size in kB, MB or GB, such as 4MB or 500kB")
    return budget


def budget_name(budget: int) -> str:
    """Return a budget as names of runs and ``[on.…]`` tables have it: ``4MB``, ``1.5MB``, ``500kB``."""
    unit = max((size, name) for name, size in _UNITS.items() if size <= budget or name == "kB")
    return f"{budget / unit[0]:.12g}{unit[1]}"


class Rehearsals:
    """What strategies keep on a benchmark, each measured once.

    Numbers with a fraction (rates, dampings) and the optimizer do not decide how much is kept, so that recipes that
    differ in these alone share a rehearsal.
    """

    def __init__(self, benchmark: ContinualBenchmark, data_root: Path | None, folder: Path) -> None:
        """Look for what was measured before in ``folder``, and keep there what is measured now."""
        self.benchmark, self._data_root, self._folder = benchmark, data_root, folder

    def bytes(self, strategy: ContinualStrategy) -> int:
        """Return the most bytes that a strategy keeps after any task.

        Raises:
            UserError: whatever is wrong with it, or a plugin whose state cannot be told.
        """
        recipe = {
            key: value for key, value in strategy.settings().items() if key not in ("name", "memory", "optimizer")
        }
        settings = deciding({"benchmark": self.benchmark.settings(), "strategy": _without_fractions(recipe)})
        path = self._folder / f"{fingerprint(settings | {'ong': version('ong')})[:20]}.json"
        if is_there(path):
            return _bytes_in(path)
        from ong.experiments.rehearsal import Rehearsal

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the run itself will say again
            kept = Rehearsal(self.benchmark, strategy, 0, self._data_root).kept()
        write_text(path, json.dumps({"bytes": kept} | settings, indent=1) + "\n")
        return kept


def _bytes_in(path: Path) -> int:
    try:
        kept = json.loads(read_text(path, "rehearsal"))["bytes"]
    except (ValueError, RecursionError, KeyError, TypeError):
        kept = None
    if not isinstance(kept, int) or isinstance(kept, bool) or kept < 0:
        raise UserError(f"'{path}' is not what a rehearsal wrote; remove it")
    return kept


def _without_fractions(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_fractions(part) for key, part in values.items() if not isinstance(part, float)}
    return [_without_fractions(part) for part in values] if isinstance(values, list) else values


def at_budgets(
    recipe_at: Callable[[str], ContinualStrategy],
    budgets: Sequence[int],
    rehearsals: Rehearsals,
    tell: Callable[[str], None],
) -> list[ContinualStrategy]:
    """Return a strategy sized to each budget that holds it; one without a knob once, as it is.

    Args:
        recipe_at: the recipe with all overrides applied, for all budgets (``""``) or one (``"@4MB"``).
        budgets: bytes.
        rehearsals: of its benchmark.
        tell: called with a line on each outcome.

    Raises:
        DoesNotFitError: none of the budgets holds it.
        UserError: whatever :func:`sized` raises.
    """
    plain = recipe_at("")
    if plain.memory is None:
        kept = rehearsals.bytes(plain)
        if kept > max(budgets):
            raise DoesNotFitError(f"'{plain.name}' keeps {budget_name(kept)} and has no knob to keep less")
        tell(f"{plain.name} keeps {budget_name(kept) if kept else 'nothing'}: it runs as it is")
        return [plain]
    found, failures = [], []
    for budget in budgets:
        try:
            found.append(sized(recipe_at(f"@{budget_name(budget)}"), budget, rehearsals))
        except DoesNotFitError as error:
            failures.append(error)
    if not found:
        raise failures[-1]
    for line in map(str, failures):
        tell(f"left out: {line}")
    for recipe in found:
        assert recipe.memory is not None
        kept = rehearsals.bytes(recipe)
        tell(f"{recipe.name}: {recipe.memory.knob} = {recipe.memory.value} keeps {budget_name(kept)}")
    return found


def sized(strategy: ContinualStrategy, budget: int, rehearsals: Rehearsals) -> ContinualStrategy:
    """Return a strategy, named ``STRATEGY@BUDGET``, with the largest value of its knob that keeps within a budget.

    Of several knobs the first is turned; where the budget does not even hold its least value, it stays at that and the
    next is turned.

    Args:
        strategy: with a ``[memory]`` table, and all overrides applied.
        budget: bytes.
        rehearsals: of its benchmark.

    Raises:
        DoesNotFitError: it keeps more than the budget, and how much at least.
        UserError: a knob that is not a whole number of the recipe.
    """
    memory = strategy.memory
    assert memory is not None
    at_least: dict[str, Any] = {}
    for knob in knobs(strategy):

        def bytes_at(value: int, knob: str = knob) -> int:
            return rehearsals.bytes(override(strategy, at_least | {knob: value}))

        found = _largest(bytes_at, budget, memory.least, _whole(strategy, knob))
        if found is not None:
            told = {"name": f"{strategy.name}@{budget_name(budget)}", "memory.budget": budget}
            turned = {"memory.knob": knob, "memory.value": found}
            if not bytes_at(found):
                raise UserError(f"'{strategy.name}' has {knob}, but what it keeps is not counted: it cannot be sized")
            return override(strategy, at_least | {knob: found} | told | turned)
        at_least[knob] = memory.least
    least = rehearsals.bytes(override(strategy, at_least))
    raise DoesNotFitError(f"'{strategy.name}' keeps {budget_name(least)} at least, more than {budget_name(budget)}")


def knobs(strategy: StrategyRecipe) -> list[str]:
    """Return the keys that rule how much a strategy keeps."""
    memory = strategy.memory if isinstance(strategy, ContinualStrategy) else None
    return [] if memory is None else [memory.knob] if isinstance(memory.knob, str) else memory.knob


def _whole(strategy: ContinualStrategy, knob: str) -> int:
    place: Any = strategy.model_dump()
    try:
        for part in knob.split("."):
            place = place[int(part)] if isinstance(place, list) else place[part]
    except (KeyError, IndexError, ValueError, TypeError):
        place = None
    if not isinstance(place, int) or isinstance(place, bool):
        raise UserError(f"[memory] knob = '{knob}' is not a whole number of strategy '{strategy.name}'")
    return place


def _largest(bytes_at: Callable[[int], int], budget: int, least: int, present: int) -> int | None:
    """Return the largest number whose bytes, which never fall, are within the budget; None if there is none.

    Bytes grow linearly but for rounding, tables of levels and what there is to keep: a line through two measurements
    finds the number almost always, and is drawn anew until the next number is too large or little is left. Where more
    of it keeps no more, the smaller number is returned.
    """
    low = max(least, present // 2)
    known = {value: bytes_at(value) for value in (low, max(present, 2 * low))}
    while True:
        below = max((value for value in known if known[value] <= budget), default=None)
        above = min((value for value in known if known[value] > budget), default=None)
        if above == least:
            return None
        if below is not None and (known[below] >= _FULL * budget or above == below + 1):
            return below
        one, other = sorted(known)[-2:] if above is None else sorted(known)[:2] if below is None else (below, above)
        slope = (known[other] - known[one]) / (other - one)
        if above is None and slope <= 0:
            return one
        if slope <= 0 or len(known) > _STRAIGHT:
            value = ((least if below is None else below) + (above or 2 * other)) // 2
        else:
            value = one + int((budget - known[one]) // slope)
        value = max(value, least if below is None else below + 1)
        value = value if above is None else min(value, above - 1)
        known[value] = bytes_at(value)
