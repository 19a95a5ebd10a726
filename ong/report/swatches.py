"""Small samples of a strategy's line and mark, as SVG shapes for the page."""

from __future__ import annotations

from dataclasses import dataclass

from ong.report.looks import looks
from ong.report.runs import Runs

__all__ = ["Swatch", "swatches"]

_MARKS = (
    "M10 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "M10.5 2.5h7v7h-7z",
    "M14 1l4.5 5L14 11L9.5 6z",
    "M14 1.5L18.5 10h-9z",
    "M14 10.5L9.5 2h9z",
    "M12.7 2h2.6v2.7H18v2.6h-2.7V10h-2.6V7.3H10V4.7h2.7z",
    "M11.5 2L14 4.5L16.5 2L18 3.5L15.5 6L18 8.5L16.5 10L14 7.5L11.5 10L10 8.5L12.5 6L10 3.5z",
    "M9.5 6L18 1.5v9z",
)
_DASHES = ("", "5 3", "1.5 2.5")


@dataclass(frozen=True)
class Swatch:
    """What is drawn: the place in the theme's colours (None is the ink's), dashes, the mark's path, whether hollow."""

    colour: int | None
    dashes: str
    mark: str
    hollow: bool


def swatches(runs: Runs) -> dict[str, Swatch]:
    """Return each shown strategy's sample."""
    styles = looks(runs)
    return {
        name: Swatch(None, "6 3", "", False)
        if runs.is_reference(name)
        else Swatch(styles[name].colour, _DASHES[styles[name].dash], _MARKS[styles[name].mark], styles[name].hollow)
        for name in runs.strategies
    }
