"""Errors that a user can mend: one line that says what was given, what is expected, the nearest choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["NotFiniteError", "UnknownNameError", "UserError", "WorkStoppedError", "nearest"]


_LONGEST = 2000  # characters of a message, which may quote what was given


class UserError(ValueError):
    """The user's input is wrong; the command line prints the message as one line and exits with 2."""

    def __init__(self, message: str = "") -> None:
        """Keep the message; of a very long one its two ends."""
        whole = len(message) <= _LONGEST
        super().__init__(message if whole else f"{message[: _LONGEST // 2]} … {message[-_LONGEST // 2 :]}")


class WorkStoppedError(RuntimeError):
    """Work that ended without a result; the command line prints the message as one line and exits with 1."""


class NotFiniteError(ValueError):
    """Numbers that are not finite where curvature is measured: weights or inputs have diverged."""


class UnknownNameError(UserError):
    """A name that is not among the known ones."""

    def __init__(self, kind: str, name: str, choices: Iterable[str]) -> None:
        known = sorted(set(choices))
        close = nearest(str(name), known)
        hint = f"did you mean '{close}'?" if close else f"known: {', '.join(known)}" if known else "there are none"
        super().__init__(f"unknown {kind} '{name}'; {hint}")


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like ``name``, or None when nothing is alike; capitals matter least."""
    alike: dict[str, list[str]] = {}
    for choice in choices:
        alike.setdefault(choice.casefold(), []).append(choice)
    matches = difflib.get_close_matches(name.casefold(), alike, n=1, cutoff=0.5)
    return difflib.get_close_matches(name, alike[matches[0]], n=1, cutoff=0)[0] if matches else None
