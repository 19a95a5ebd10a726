"""What a report shows of a benchmark's runs: which strategies and columns, under which names, on which paper."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ong.errors import UnknownNameError, UserError

__all__ = ["PAPERS", "Choice", "Paper", "read_choice"]


@dataclass(frozen=True)
class Paper:
    """How wide a figure is, in inches, how large its letters are, in points, and where its legend stands."""

    width: float
    font: float
    beside: bool = True

    @property
    def height(self) -> float:
        """The height of a figure, in inches, without a legend below it."""
        return (0.54 if self.beside else 0.62) * self.width


PAPERS = {"screen": Paper(8.6, 9.5), "one-column": Paper(3.3, 7.5, beside=False), "two-column": Paper(6.9, 8.5)}
"""For pages and slides; for one column of a paper in two columns; for the whole width of a paper."""


@dataclass(frozen=True)
class Choice:
    """What is shown; the defaults are all strategies, by ``ACC``, and the usual columns.

    Attributes:
        only: the strategies shown, in this order; all, by ``ACC``, if empty.
        labels: the names printed for strategies, by name.
        columns: keys of the columns shown, in this order; the usual ones if empty.
        paper: what figures are drawn for, a key of :data:`PAPERS`.
    """

    only: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    paper: str = "screen"

    def __post_init__(self) -> None:
        if self.paper not in PAPERS:
            raise UnknownNameError("paper", self.paper, PAPERS)
        if len(set(self.labels.values())) < len(self.labels):
            raise UserError("two strategies have one label; give each its own")

    def check(self, strategies: list[str], columns: list[str]) -> None:
        """Check the names against those there are.

        Raises:
            UnknownNameError: a strategy without runs, or a column that no run has.
        """
        for name in (*self.only, *self.labels):
            if name not in strategies:
                raise UnknownNameError("strategy among the records", name, strategies)
        for name, label in self.labels.items():
            if label in strategies and label != name and label not in self.labels:
                raise UserError(f"the label of '{name}' is the name of another strategy, '{label}'; give it another")
        for key in self.columns:
            if key not in columns:
                raise UnknownNameError("column", key, columns)


def read_choice(only: str = "", labels: Iterable[str] = (), columns: str = "", paper: str = "screen") -> Choice:
    """Read a choice as the command line has it: names with commas between, labels as ``name=text``.

    >>> read_choice("naive,ogd", ["ogd=OGD (ours)"]).labels
    {'ogd': 'OGD (ours)'}

    Raises:
        UserError: a label without ``=`` or without text, or one text for two strategies.
    """
    named = {}
    for label in labels:
        name, equals, text = label.partition("=")
        if not (equals and name.strip() and text.strip()):
            raise UserError(f"'{label}' is no label; write one as name=text, such as ogd='OGD (ours)'")
        named[name.strip()] = text.strip()
    return Choice(_names(only), named, _names(columns), paper)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
