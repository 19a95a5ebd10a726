"""The ranges a search looks in: read from a recipe's ``[search]`` table, and widened where the best lies at an end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from ong.errors import UserError
from ong.experiments.schema import StrategyRecipe

__all__ = ["at_share", "end_of", "holds", "present", "read_range", "rounded", "widened", "words"]

_NEAR = 0.05  # of a range's length: what counts as its end


def read_range(key: str, space: Mapping[str, Any]) -> BaseDistribution:
    """Read ``{ low, high, log }`` (whole numbers stay whole) or ``{ choices }``.

    Raises:
        UserError: anything else.
    """
    try:
        if set(space) == {"choices"}:
            if not isinstance(space["choices"], list):
                raise ValueError(f"choices={space['choices']!r} is no list")
            return CategoricalDistribution(space["choices"])
        low, high, log = space["low"], space["high"], space.get("log", False)
        if set(space) - {"low", "high", "log"}:
            raise ValueError(f"unknown key {sorted(set(space) - {'low', 'high', 'log'})[0]}")
        for name, end in (("low", low), ("high", high)):
            if isinstance(end, bool) or not isinstance(end, int | float):
                raise ValueError(f"{name}={end!r} is no number")
        if not isinstance(log, bool):
            raise ValueError(f"log={log!r} is neither true nor false")
        kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
        return kind(low, high, log=log)
    except (KeyError, TypeError, ValueError) as error:
        what = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else error
        raise UserError(f"[search] '{key}': give low and high (log if wanted), or choices, a list; {what}") from None


def present(recipe: StrategyRecipe, key: str, among: BaseDistribution) -> Any:
    """Return what a recipe has now, which the search begins with.

    Raises:
        UserError: the recipe has no such key, or its value is not one of the choices.
    """
    place: Any = recipe.model_dump()
    try:
        for part in key.split("."):
            place = place[int(part)] if isinstance(place, list) else place[part]
    except (KeyError, IndexError, ValueError):
        raise UserError(f"[search] '{key}' is not a key of strategy '{recipe.name}'") from None
    if isinstance(among, CategoricalDistribution) and place not in among.choices:
        raise UserError(f"[search] '{key}': the recipe's own value {place!r} must be one of the choices")
    return place


def rounded(value: Any) -> Any:
    """Return a number with three digits, which are printed, tried and written."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def words(among: BaseDistribution) -> str:
    """Return a range as a user reads it."""
    if isinstance(among, CategoricalDistribution):
        return ", ".join(map(str, among.choices))
    assert isinstance(among, FloatDistribution | IntDistribution)
    return f"{among.low:g} … {among.high:g}"


def holds(among: BaseDistribution, value: Any) -> bool:
    """Return whether a value lies in a range; a recipe's own need not."""
    if isinstance(among, CategoricalDistribution):
        return value in among.choices
    assert isinstance(among, FloatDistribution | IntDistribution)
    return bool(among.low <= value <= among.high)


def end_of(among: BaseDistribution, value: Any) -> str | None:
    """Return ``"lower"`` or ``"upper"`` where a value lies within a twentieth of that end, or beyond it; or None."""
    if isinstance(among, CategoricalDistribution):
        numbers = [c for c in among.choices if isinstance(c, float | int) and not isinstance(c, bool)]
        if len(numbers) < max(2, len(among.choices)):
            return None
        return {min(numbers): "lower", max(numbers): "upper"}.get(value)
    assert isinstance(among, FloatDistribution | IntDistribution)
    low, high, place = (math.log(x) if among.log else x for x in (among.low, among.high, value))
    near = _NEAR * (high - low)
    return "lower" if place - low <= near else "upper" if high - place <= near else None


def at_share(among: BaseDistribution, share: float) -> Any:
    """Return the value that lies a share, from 0 to 1, of a range's length above its lower end."""
    if isinstance(among, CategoricalDistribution):
        return among.choices[min(int(share * len(among.choices)), len(among.choices) - 1)]
    assert isinstance(among, FloatDistribution | IntDistribution)
    low, high = (math.log(x) if among.log else x for x in (among.low, among.high))
    value = math.exp(low + share * (high - low)) if among.log else low + share * (high - low)
    return round(value) if isinstance(among, IntDistribution) else value


def widened(space: Mapping[str, BaseDistribution], best: Mapping[str, Any]) -> dict[str, BaseDistribution]:
    """Move an end at which the best lies out by a third of the range, where the range is logarithmic.

    Other ranges are of shares and thresholds, which end where their meaning does, and lists of choices.
    """
    found = dict(space)
    for key, among in space.items():
        end = end_of(among, best[key])
        if end is None or not isinstance(among, FloatDistribution | IntDistribution) or not among.log:
            continue
        factor = (among.high / among.low) ** (1 / 3)
        low = among.low / factor if end == "lower" else among.low
        high = among.high * factor if end == "upper" else among.high
        if isinstance(among, IntDistribution):
            found[key] = IntDistribution(max(1, round(low)), round(high), log=True)
        else:
            found[key] = FloatDistribution(rounded(low), rounded(high), log=True)
    return found
