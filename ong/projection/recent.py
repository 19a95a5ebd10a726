"""The last few of what is worked out for sets of blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Recent"]

T = TypeVar("T")
_MOST = 8


class Recent(Generic[T]):
    """Keeps what was made for the sets of blocks that moved last: networks that drop layers have very many."""

    def __init__(self) -> None:
        self._made: OrderedDict[frozenset[str], T] = OrderedDict()

    def get(self, names: frozenset[str], make: Callable[[], T]) -> T:
        """Return what is kept for a set of blocks, made anew where nothing is."""
        if names not in self._made:
            self._made[names] = make()
            if len(self._made) > _MOST:
                self._made.popitem(last=False)
        self._made.move_to_end(names)
        return self._made[names]

    @property
    def last(self) -> T | None:
        """What was asked for last."""
        return next(reversed(self._made.values()), None)
