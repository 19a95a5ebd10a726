"""A memory kept within bounds: the most independent directions stay, as factors."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from ong.projection.gram import pivoted_cholesky
from ong.projection.memory import DirectionMemory

__all__ = ["Bounds"]


@dataclass(frozen=True)
class Bounds:
    """How much a memory may hold.

    Attributes:
        max_directions: most directions, or None.
        max_bytes: most bytes of the stored directions (the M × M Gram beside them not counted), or None.
    """

    max_directions: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a number below 1.
        """
        for name in ("max_directions", "max_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def hold(self, memory: DirectionMemory) -> bool:
        """Return whether a memory is within the bounds."""
        return not (
            (self.max_directions is not None and memory.count > self.max_directions)
            or (self.max_bytes is not None and memory.bytes > self.max_bytes)
        )

    def apply(self, memory: DirectionMemory) -> tuple[DirectionMemory, float]:
        """Return a memory within the bounds, and the share of the given one's directions that it captures.

        Past a bound, the most independent directions are kept by :func:`ong.projection.pivoted_cholesky`, as they were
        stored and in the order they came. Directions in the span of others are the first to go, at no loss.
        """
        if self.hold(memory):
            return memory, 1.0
        most = memory.count if self.max_directions is None else min(memory.count, self.max_directions)
        pivots = pivoted_cholesky(memory.gram(), most)
        count = len(pivots.order)
        if self.max_bytes is not None:
            sizes = range(count + 1)
            count = bisect_right(sizes, self.max_bytes, key=lambda k: memory.select(pivots.order[:k]).bytes) - 1
        return memory.select(pivots.order[:count]), pivots.captured(count)
