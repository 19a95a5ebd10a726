"""What a search found, written into a strategy's recipe: comments and layout stay as they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomlkit
import tomlkit.exceptions

from ong.errors import UserError
from ong.experiments.recipes import read_toml
from ong.files import read_text, write_text

__all__ = ["write_block"]


def write_block(path: Path, benchmark: str, values: Mapping[str, Any], told: str) -> None:
    """Put values into the ``[on.BENCHMARK]`` table of a recipe file, everything else left as it is.

    Args:
        path: the file.
        benchmark: the benchmark's name.
        values: dotted keys and their values.
        told: how they were found, which becomes a comment.

    Raises:
        UserError: the file cannot be written to; it stays as it was.
        WorkStoppedError: the disk is full; likewise.
    """
    present = read_toml(path, "strategy recipe").get("on", {})
    if not isinstance(present, dict) or not isinstance(present.get(benchmark, {}), dict):
        raise UserError(f"strategy recipe '{path}': 'on' and 'on.{benchmark}' must be tables")
    try:
        document = tomlkit.parse(read_text(path, "strategy recipe"))
    except (tomlkit.exceptions.TOMLKitError, RecursionError) as error:
        raise UserError(f"the strategy recipe '{path}' cannot be changed: {error}") from None
    tables = document.setdefault("on", tomlkit.table(is_super_table=True))
    block = tables.setdefault(benchmark, tomlkit.table())
    block.comment(told)
    for key, value in values.items():
        block[key] = value
    write_text(path, tomlkit.dumps(document))
