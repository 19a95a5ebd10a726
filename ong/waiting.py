"""A bar for what lets one wait."""

from __future__ import annotations

from collections.abc import Iterable
from threading import RLock
from typing import TypeVar

from tqdm import tqdm

__all__ = ["waiting"]

T = TypeVar("T")
_SECONDS = 3  # after which it shows


class _Bar(tqdm):  # type: ignore[type-arg]
    """A bar with a lock between threads; tqdm's own is also between processes, a semaphore in each worker."""


_Bar.set_lock(RLock())


def waiting(items: Iterable[T], what: str, total: int | None = None) -> Iterable[T]:
    """Go through items; on a terminal a bar shows how far it is, where that takes more than seconds.

    Args:
        items: what is gone through.
        what: is done meanwhile, in words.
        total: number of items, where they do not tell it.
    """
    return _Bar(items, what, total, leave=False, delay=_SECONDS, disable=None, dynamic_ncols=True)
