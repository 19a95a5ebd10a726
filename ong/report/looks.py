"""The colour, mark and dashes of each strategy: the same in every figure of a benchmark, whatever its rank.

They follow the names in the alphabet, so that a strategy keeps them when others are left out of a figure.
"""

from __future__ import annotations

from dataclasses import dataclass

from ong.report.runs import Runs, unsized

__all__ = ["COLOURS", "DASHES", "MARKERS", "SYMBOLS", "Look", "looks"]

COLOURS = 10
"""Lines of one kind before dashes change."""

MARKERS = "osD^vPX<"
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "triangle-left")
"""The same marks by the names that the page's plotting library gives them."""

DASHES = ("-", "--", ":")


@dataclass(frozen=True)
class Look:
    """Places in a theme's colours, in :data:`MARKERS` and in :data:`DASHES`.

    Strategies sized to a budget of memory share colour and mark with the others of their name; their mark is hollow.
    """

    colour: int
    mark: int
    dash: int
    hollow: bool = False


def looks(runs: Runs) -> dict[str, Look]:
    """Return the look of each strategy of a benchmark but the references, which are lines in the ink's colour.

    The names without budgets (``ogd`` of ``ogd@4MB``) have one too.
    """
    competing = [name for name in runs.names if not runs.is_reference(name)]
    families: dict[str, list[str]] = {}
    for name in competing:
        families.setdefault(unsized(name), []).append(name)
    found = {}
    for i, (family, members) in enumerate(sorted(families.items())):
        turn = i // COLOURS
        own = Look(i % COLOURS, (i + turn) % len(MARKERS), turn % len(DASHES))
        found[family] = own
        for j, name in enumerate(member for member in sorted(members) if member != family):
            found[name] = Look(own.colour, own.mark, (own.dash + j + 1) % len(DASHES), hollow=True)
    return found
