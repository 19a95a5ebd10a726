"""Directions in the form in which a step multiplies with them fastest, within bytes."""

from __future__ import annotations

from collections.abc import Mapping

from ong.projection.derived import CombinedRows, StackedRows
from ong.projection.memory import DirectionMemory
from ong.projection.patches import PatchRows
from ong.projection.rows import FactoredRows, Rows
from ong.projection.slabs import expanded

__all__ = ["WORKING_BYTES", "matrix_bytes", "worked_with"]

WORKING_BYTES = 2 * 10**9
_BALANCE = 7
"""Positions whose products take as long as reading the gradient from memory.

A step multiplies with G twice. Of one number of a gradient in factors that is 4T operations, at 50 to 90 · 10⁹ a
second on one core here, and kept as a matrix two reads of 4 bytes, at 20 · 10⁹ bytes a second: 4T/70 = 8/20.
"""


def worked_with(memory: DirectionMemory, budget: int = WORKING_BYTES) -> DirectionMemory:
    """Return the same directions, with matrices in place of factors of many positions as far as a budget goes.

    Args:
        memory: the directions as they are kept.
        budget: most bytes of matrices beside them.
    """
    matrices = matrix_bytes(memory.rows, len(memory), budget)
    return DirectionMemory({name: expanded(rows) if name in matrices else rows for name, rows in memory.rows.items()})


def matrix_bytes(rows: Mapping[str, Rows], count: int, budget: int = WORKING_BYTES) -> dict[str, int]:
    """Return the blocks that are worked with as matrices, and the bytes of these, for ``count`` directions as some are.

    The most positions come first: a byte saves the most time there. Which blocks these are depends on shapes alone.
    """
    found: dict[str, int] = {}
    for name, some in sorted(rows.items(), key=lambda item: positions(item[1]), reverse=True):
        height, width = some.shape
        size = count * height * width * some.like.element_size()
        if positions(some) > _BALANCE and sum(found.values()) + size <= budget:
            found[name] = size
    return found


def positions(rows: Rows) -> float:
    """Return how many products of a row and a column vector there are a direction; 0 for what stays as it is."""
    if isinstance(rows, FactoredRows | PatchRows):
        return rows.positions
    if isinstance(rows, CombinedRows):
        of_one = positions(rows.rows)
        return of_one if of_one <= 1 else of_one * len(rows.rows) / max(1, len(rows))
    if isinstance(rows, StackedRows):
        return sum(len(part) * positions(part) for part in rows.parts) / max(1, len(rows))
    return 0.0
