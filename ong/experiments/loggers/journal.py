"""The notes of what an unfinished run has measured, ``logged.jsonl`` in its folder: a line a step."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from ong.errors import UserError
from ong.files import is_there, read_text, write_text

__all__ = ["Journal"]


class Journal:
    """Notes that outlive the process; a line that a kill has torn is as if it were not there.

    Attributes:
        id: the run's in all trackers, 16 hexadecimal digits; drawn when the notes are begun.
        noted: each step and its numbers that there were when the file was opened.
        last: the last step noted, −1 where there is none.
    """

    def __init__(self, path: Path, settings: str) -> None:
        """Open the notes of a run, or begin them.

        Args:
            path: the file.
            settings: a digest of what decides the run; notes of another are begun anew.

        Raises:
            UserError: the file is something else, or cannot be written to.
            WorkStoppedError: the disk is full.
        """
        self.noted: list[tuple[int, dict[str, float]]] = []
        head = {"settings": settings, "id": secrets.token_hex(8)}
        if is_there(path):
            first, *lines = read_text(path, "notes of loggers").split("\n")
            found = _head(first, path)
            if found["settings"] == settings:
                head = found
                for line in lines:
                    if (note := _note(line)) is None:
                        break
                    self.noted.append(note)
        self.id: str = head["id"]
        self.last = self.noted[-1][0] if self.noted else -1
        write_text(path, "".join(f"{json.dumps(line)}\n" for line in (head, *self.noted)))
        self._file = path.open("a", encoding="utf-8")

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Note a step.

        Raises:
            OSError: it cannot be written.
        """
        self._file.write(f"{json.dumps([step, dict(values)])}\n")
        self._file.flush()
        self.last = step

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _head(line: str, path: Path) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads(line)
        if set(found) == {"settings", "id"} and all(isinstance(value, str) for value in found.values()):
            return found
    except (ValueError, TypeError, AttributeError, RecursionError):
        pass
    raise UserError(f"'{path}' is not what loggers leave of an unfinished run; remove it")


def _note(line: str) -> tuple[int, dict[str, float]] | None:
    """Return the step and the numbers of a line, None of one that is torn."""
    try:
        step, values = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    return (step, values) if isinstance(step, int) and isinstance(values, dict) else None
