"""When a falling curve first reached a value, read off between its points."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["at", "crossing"]


def crossing(curve: Sequence[float], target: float) -> float | None:
    """Return the place (0 is the first point) where a curve first was at most ``target``, or None.

    Between two points the curve counts as a straight line.
    """
    for place, value in enumerate(curve):
        if value <= target:
            if place == 0:
                return 0.0
            before = curve[place - 1]
            return place - 1 + (before - target) / (before - value)
    return None


def at(place: float, values: Sequence[float]) -> float:
    """Return the value at a place between the points of another curve over the same points."""
    whole = int(place)
    if whole + 1 >= len(values):
        return values[-1]
    return values[whole] + (place - whole) * (values[whole + 1] - values[whole])
