"""Figures that others published, to print beside ours and never as ours; data in ``published.toml``."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

__all__ = ["Published", "published"]


@dataclass(frozen=True)
class Published:
    """What one source reports for one setting; rows are (method, accuracy in percent as printed, needs)."""

    setting: str
    source: str
    rows: tuple[tuple[str, str, str], ...]


def published(benchmark: str) -> list[Published]:
    """Return what was published on the task of a benchmark, by the start of its name; often nothing."""
    text = resources.files("ong.report").joinpath("published.toml").read_text(encoding="utf-8")
    return [
        Published(
            table["setting"],
            table["source"],
            tuple((row["method"], row["acc"], row.get("needs", "")) for row in table["rows"]),
        )
        for table in tomllib.loads(text)["table"]
        if any(benchmark == name or benchmark.startswith(f"{name}-") for name in table["benchmarks"])
    ]
