"""The report of each kind of benchmark that is not a sequence of tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ong.report import autoencoder, deep_linear, fisher
from ong.report.document import Document
from ong.report.runs import HistoryRuns, Runs

__all__ = ["DOCUMENTS", "document", "sections"]

DOCUMENTS: dict[str, Callable[[HistoryRuns], Document]] = {
    "autoencoder": autoencoder.document,
    "deep-linear": deep_linear.document,
    "fisher": fisher.document,
}


def document(runs: HistoryRuns) -> Document:
    """Return the report of a benchmark's runs."""
    return DOCUMENTS[runs.kind](runs)


def sections(groups: Sequence[Runs | HistoryRuns]) -> list[Runs | Document]:
    """Return what a report has a section of: runs over tasks as they are, the others as documents."""
    return [runs if isinstance(runs, Runs) else document(runs) for runs in groups]
