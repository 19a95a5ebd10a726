"""What a user types as an option's value, read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ong.errors import UserError

__all__ = ["LARGEST_SEED", "check_cluster", "check_jobs", "find_records", "parse_seeds", "parse_settings", "seeds_of"]

_MOST_SEEDS = 1000
LARGEST_SEED = 2**32 - 1  # numpy's, which random numbers of other libraries are seeded by


def check_jobs(jobs: int) -> None:
    """Refuse a negative number of workers."""
    if jobs < 0:
        raise UserError(f"--jobs {jobs}: give the number of workers, or 0 for one a core")


def check_cluster(address: str) -> None:
    """Refuse what is no Dask scheduler's address."""
    host = address.removeprefix("dask://")
    if host == address or not host.rpartition(":")[2].isdecimal():
        raise UserError(f"--cluster '{address}': give a Dask scheduler's address, such as dask://localhost:8786")


def seeds_of(seeds: str | None, seed: int | None, default: list[int]) -> list[int]:
    """Return what ``--seeds`` and ``--seed`` ask for together.

    Raises:
        UserError: both are given, or one that is none.
    """
    if seeds is not None and seed is not None:
        raise UserError(f"--seeds {seeds} and --seed {seed}: give one of them")
    if seed is not None:
        if not 0 <= seed <= LARGEST_SEED:
            raise UserError(f"--seed {seed}: a seed is a whole number from 0 to {LARGEST_SEED}")
        return [seed]
    return default if seeds is None else parse_seeds(seeds)


def parse_seeds(text: str) -> list[int]:
    """Read ``5`` and ``0-4`` as 0…4, ``3,7`` as those two, and ``0-2,7`` as four seeds.

    Raises:
        UserError: anything else, a seed twice, or more than a thousand.
    """
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", text):
        if not 1 <= int(text) <= _MOST_SEEDS:
            raise UserError(
                f"--seeds '{text}': the count must be from 1 to {_MOST_SEEDS}; one seed alone is --seed {text}"
            )
        return list(range(int(text)))
    numbers: list[int] = []
    for part in filter(None, map(str.strip, text.split(","))):
        found = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", part)
        first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if first > last or last > LARGEST_SEED:
            raise UserError(
                f"--seeds '{text}': give a count, such as 5, a range, such as 0-4, or a list, such as 3,7, of seeds "
                f"from 0 to {LARGEST_SEED}"
            )
        if last - first >= _MOST_SEEDS or len(numbers) >= _MOST_SEEDS:
            raise UserError(f"--seeds '{text}': these are more than {_MOST_SEEDS}")
        numbers += range(first, last + 1)
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds '{text}': seeds must be different, and one at least")
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
        except (ValueError, RecursionError):  # numbers of too many digits, brackets in brackets
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
