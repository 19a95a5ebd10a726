"""What a metric is: a pure function of the accuracy matrix, and how it is shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ong.errors import UserError
from ong.extensions import marked
from ong.metrics.matrix import AccuracyMatrix
from ong.quantities import Quantity

__all__ = ["Metric", "Others", "metric"]

Others = Mapping[str, AccuracyMatrix]
"""The runs of other strategies with the same benchmark and seed, by the strategy's name."""

F = TypeVar("F", bound=Callable[..., float])


@dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A metric.

    Attributes:
        name: its key in records and files.
        of: takes a run's matrix and, where it has a second parameter, the :data:`Others`.
        on_request: whether tables leave it out until it is asked for.
    """

    name: str
    of: Callable[..., float]
    on_request: bool = False

    def __call__(self, matrix: AccuracyMatrix, others: Others | None = None) -> float:
        """Return its value for a run; NaN where it is undefined.

        Raises:
            UserError: the function fails, or returns no number.
        """
        arguments: list[Any] = [matrix, others or {}][: len(inspect.signature(self.of).parameters)]
        try:
            return float(self.of(*arguments))
        except Exception as error:  # of functions of others
            told = f"{type(error).__name__}: {error}"
            raise UserError(f"metric '{self.name}' fails for a run of {matrix.tasks} tasks ({told})") from error


def metric(
    name: str,
    *,
    title: str | None = None,
    about: str = "",
    formula: str = "",
    better: Literal["higher", "lower"] | None = None,
    form: str = ".3f",
    on_request: bool = False,
) -> Callable[[F], F]:
    """Make a function of the accuracy matrix a metric; the function itself stays as it is.

    >>> from ong.metrics import AccuracyMatrix, metric
    >>> @metric("worst_task", title="Worst task", formula="min_j R[T−1, j]", better="higher")
    ... def worst_task(matrix: AccuracyMatrix) -> float:
    ...     return float(matrix.after[-1].min())

    Args:
        name: its key in files, and for ``--columns``.
        title: its heading; its name if None.
        about: what it is, in a few words.
        formula: what it computes, on one line, with R[t, j] the accuracy on task j after training task t.
        better: whether more or less of it is better; None where strategies do not compete by it.
        form: how a number is written, as Python's ``format`` takes it.
        on_request: whether tables leave it out until ``--columns`` names it.

    Raises:
        UserError: a name that is not one word, or another ``better``.
    """
    if better not in (None, "higher", "lower"):
        raise UserError(f"metric '{name}': better is 'higher', 'lower' or None, got {better!r}")
    if not name or "," in name or any(c.isspace() for c in name):
        raise UserError(f"metric '{name}': a name is one word without commas, as --columns lists names; see title")

    def mark(function: F) -> F:
        return marked(
            function,
            Metric(
                name=name,
                title=name if title is None else title,
                about=about,
                formula=formula,
                better=better,
                form=form,
                on_request=on_request,
                of=function,
            ),
        )

    return mark
