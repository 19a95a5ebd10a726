"""The report of each kind of benchmark that is not a sequence of tasks."""

from __future__ import annotations

from collections.abc import Callable

from ong.report import autoencoder, deep_linear, fisher
from ong.report.document import Document
from ong.report.runs import HistoryRuns

__all__ = ["DOCUMENTS", "document"]

DOCUMENTS: dict[str, Callable[[HistoryRuns], Document]] = {
    "autoencoder": autoencoder.document,
    "deep-linear": deep_linear.document,
    "fisher": fisher.document,
}


def document(runs: HistoryRuns) -> Document:
    """Return the report of a benchmark's runs."""
    return DOCUMENTS[runs.kind](runs)
