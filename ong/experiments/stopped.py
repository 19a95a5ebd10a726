"""A run that cannot go on: where it stopped, so that a failure can name the place."""

from __future__ import annotations

from typing import Any

__all__ = ["StoppedError"]


class StoppedError(RuntimeError):
    """A run met NaN or infinity, or is ended as hopeless; what was finished before is kept.

    Attributes:
        place: where, such as ``{"task": 2, "step": 17}`` or ``{"epoch": 2, "step": 17}``; and what else is to be
            told of it.
    """

    def __init__(self, message: str, **place: Any) -> None:
        self.place = place
        super().__init__(message)
