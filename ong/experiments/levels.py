"""The vector units that torch computes with, which decide a run's last digits: chosen before torch is imported.

torch takes the widest that the processor has, unless ``ATEN_CPU_CAPABILITY`` says ``avx2`` or ``default``. The sums of
a product are then added in another order, and docs/reproducibility.md has what comes of that.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path

from ong.files import read_text

__all__ = ["level_of_records", "level_of_sweep", "take_level"]

_VARIABLE = "ATEN_CPU_CAPABILITY"


def take_level(level: str | None) -> None:
    """Let torch, which must not have been imported yet, compute at a level; the user's own choice stands."""
    if level is not None:
        os.environ.setdefault(_VARIABLE, level.lower())


def level_of_sweep(path: Path) -> str | None:
    """Return a sweep file's ``cpu_capability``; None where it has none, or where reading it will show what is wrong."""
    try:
        level = tomllib.loads(read_text(path, "sweep file")).get("cpu_capability")
    except (ValueError, RecursionError):
        return None
    return level if isinstance(level, str) else None


def level_of_records(paths: Iterable[Path]) -> str | None:
    """Return the level that records were made at, None where they do not tell one and the same."""
    levels = set()
    for path in paths:
        try:
            environment = json.loads(read_text(path.with_name("environment.json"), "environment"))
        except (ValueError, RecursionError):
            environment = {}
        level = environment.get("cpu_capability") if isinstance(environment, dict) else None
        levels.add(level if isinstance(level, str) else None)
    return levels.pop() if len(levels) == 1 else None
