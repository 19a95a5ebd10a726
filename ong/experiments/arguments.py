"""What a user types as an option's value, read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ong.errors import UserError

__all__ = ["check_jobs", "find_records", "parse_seeds", "parse_settings"]

_MOST_SEEDS = 1000


def check_jobs(jobs: int) -> None:
    """Refuse a negative number of workers."""
    if jobs < 0:
        raise UserError(f"--jobs {jobs}: give the number of workers, or 0 for one a core")


def parse_seeds(text: str) -> list[int]:
    """Read ``5`` as 0…4 and ``3,7`` as those two (``3,`` is the single seed 3)."""
    try:
        numbers = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"--seeds '{text}': give a count, such as 5, or a list, such as 3,7") from None
    if "," not in text:
        if not numbers or not 1 <= numbers[0] <= _MOST_SEEDS:
            raise UserError(f"--seeds '{text}': the count must be from 1 to {_MOST_SEEDS}; one seed alone is '{text},'")
        return list(range(numbers[0]))
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds '{text}': seeds must be different and not negative")
    return numbers


def parse_settings(settings: Sequence[str]) -> dict[str, Any]:
    """Read ``key=value`` pairs, the value as TOML, or as text where it is not."""
    changes: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set '{setting}' is not of the form key=value")
        try:
            changes[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[key.strip()] = value
    return changes


def find_records(paths: Iterable[Path]) -> list[Path]:
    """Return the record files that are meant: files, and all that lie in folders.

    Raises:
        UserError: a path without a record.
    """
    found: list[Path] = []
    for path in paths:
        records = sorted(path.rglob("record.json")) if path.is_dir() else [path]
        if not records:
            raise UserError(f"'{path}' holds no record.json")
        found += records
    return list(dict.fromkeys(found))
