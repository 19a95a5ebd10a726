"""The accuracy matrix of a continual-learning run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["AccuracyMatrix", "check_accuracies", "mean"]


@dataclass(frozen=True, eq=False)
class AccuracyMatrix:
    """The accuracies of one run: a row before training, then one after each task.

    Args:
        values: array of shape [T + 1, T] with entries in [0, 1], or NaN where nothing was measured; it is
            copied and the copy made read-only.

    Raises:
        ValueError: if the shape is not [T + 1, T] with T ≥ 1, or an entry lies outside [0, 1].
    """

    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] < 1 or values.shape[0] != values.shape[1] + 1:
            raise ValueError(
                "an accuracy matrix has shape [T + 1, T] (a row before training, then one after each of "
                f"T tasks), got {list(values.shape)}"
            )
        check_accuracies(values, "accuracy matrix")
        values.setflags(write=False)
        object.__setattr__(self, "values", values)

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[float | None]]) -> Self:
        """Build the matrix from the rows of a record, where null stands for NaN.

        Raises:
            ValueError: if the rows differ in length, or as the class says.
        """
        lengths = sorted({len(row) for row in rows})
        if len(lengths) > 1:
            raise ValueError(f"the rows of an accuracy matrix have one length, got lengths {lengths}")
        return cls(np.array([[math.nan if x is None else x for x in row] for row in rows], dtype=np.float64))

    def to_rows(self) -> list[list[float | None]]:
        """Return the rows as plain numbers for JSON, None for NaN; the inverse of :meth:`from_rows`."""
        return [[None if math.isnan(x) else float(x) for x in row] for row in self.values]

    @property
    def tasks(self) -> int:
        """T, the number of tasks."""
        return int(self.values.shape[1])

    @property
    def before(self) -> NDArray[np.float64]:
        """R[−1, ·], the accuracies before training, of shape [T]."""
        before: NDArray[np.float64] = self.values[0]
        return before

    @property
    def after(self) -> NDArray[np.float64]:
        """R, of shape [T, T]: row t holds the accuracies after training task t."""
        return self.values[1:]


def mean(values: NDArray[np.float64]) -> float:
    """Return a mean; NaN over no values."""
    return float(values.mean()) if values.size else math.nan


def check_accuracies(values: NDArray[np.float64], what: str) -> None:
    """Raise ``ValueError`` for an entry that is neither NaN nor in [0, 1]."""
    outside = np.argwhere(~(np.isnan(values) | ((values >= 0.0) & (values <= 1.0))))
    if len(outside):
        place = tuple(int(i) for i in outside[0])
        raise ValueError(f"{what}: entries are fractions in [0, 1] or NaN, got {values[place]} at index {list(place)}")
