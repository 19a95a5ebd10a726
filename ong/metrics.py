"""The accuracy matrix of a continual-learning run, and every metric as a pure function of it.

Write R[t, j] for the accuracy on task j after training task t, for T tasks counted from 0; row −1 is
measured before any training. Frameworks differ in what they call forgetting, so :data:`FORMULAS` states the
definitions in use here and every report prints them.

A metric is undefined when its inputs are missing (NaN: joint training has no intermediate rows) or when it is
a mean over no tasks (backward transfer with T = 1): the functions return NaN, :func:`all_metrics` None.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FORMULAS",
    "AccuracyMatrix",
    "all_metrics",
    "average_accuracy",
    "average_accuracy_so_far",
    "backward_transfer",
    "forgetting",
    "forgetting_first",
    "forward_transfer",
    "intransigence",
    "learning_accuracy",
    "recovered",
]

FORMULAS: dict[str, str] = {
    "ACC": "mean_j R[T−1, j]",
    "learning_accuracy": "mean_j R[j, j]",
    "BWT": "mean_{j<T−1} (R[T−1, j] − R[j, j])",
    "forgetting": "mean_{j<T−1} (max_{t<T} R[t, j] − R[T−1, j])",
    "forgetting_first": "mean_{j<T−1} (R[j, j] − R[T−1, j]) = −BWT",
    "FWT": "mean_{j>0} (R[j−1, j] − R[−1, j])",
    "intransigence": "mean_j (scratch_j − R[j, j])",
    "recovered": "(ACC − ACC_naive) / (ACC_joint − ACC_naive)",
}
"""One printable formula for each metric, in the order of every table."""


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
        _check_accuracies(values, "accuracy matrix")
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
        return [[_or_none(float(x)) for x in row] for row in self.values]

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


def average_accuracy(matrix: AccuracyMatrix) -> float:
    """``ACC`` = mean_j R[T−1, j] (Lopez-Paz and Ranzato, GEM, 2017, eq. 2)."""
    return _mean(matrix.after[-1])


def learning_accuracy(matrix: AccuracyMatrix) -> float:
    """Plasticity: mean_j R[j, j], accuracy on each task just learned (Riemer et al., MER, 2019)."""
    return _mean(np.diagonal(matrix.after))


def backward_transfer(matrix: AccuracyMatrix) -> float:
    """``BWT`` = mean_{j<T−1} (R[T−1, j] − R[j, j]) (Lopez-Paz and Ranzato, GEM, 2017, eq. 3).

    NaN if T = 1.
    """
    return _mean((matrix.after[-1] - np.diagonal(matrix.after))[:-1])


def forgetting(matrix: AccuracyMatrix) -> float:
    """Loss from each task's best: mean_{j<T−1} (max_{t<T} R[t, j] − R[T−1, j]), as in Mammoth and PyCIL.

    The maximum runs over all rows after training, the last included, so forgetting is never negative.
    NaN if T = 1.
    """
    return _mean((matrix.after.max(axis=0) - matrix.after[-1])[:-1])


def forgetting_first(matrix: AccuracyMatrix) -> float:
    """Loss since each task was learned: mean_{j<T−1} (R[j, j] − R[T−1, j]) = −BWT, as in Avalanche.

    NaN if T = 1.
    """
    return _mean((np.diagonal(matrix.after) - matrix.after[-1])[:-1])


def forward_transfer(matrix: AccuracyMatrix) -> float:
    """``FWT`` = mean_{j>0} (R[j−1, j] − R[−1, j]) (Lopez-Paz and Ranzato, GEM, 2017, eq. 4).

    NaN if T = 1.
    """
    return _mean(np.diagonal(matrix.after, offset=1) - matrix.before[1:])


def intransigence(matrix: AccuracyMatrix, scratch: ArrayLike) -> float:
    """Plasticity lost to the past: mean_j (scratch_j − R[j, j]).

    After Chaudhry et al. (RWalk, 2018), whose reference net is trained on all tasks so far, not on one.

    Args:
        matrix: the run's accuracies.
        scratch: [T], the accuracy on task j of the same net trained on task j alone.

    Raises:
        ValueError: if ``scratch`` has another shape than [T] or an entry outside [0, 1].
    """
    alone = np.asarray(scratch, dtype=np.float64)
    if alone.shape != (matrix.tasks,):
        raise ValueError(f"scratch accuracies have shape [{matrix.tasks}], one a task; got {list(alone.shape)}")
    _check_accuracies(alone, "scratch accuracies")
    return _mean(alone - np.diagonal(matrix.after))


def recovered(acc: float, acc_naive: float, acc_joint: float) -> float:
    """How much of what forgetting costs is won back: (ACC − ACC_naive) / (ACC_joint − ACC_naive).

    0 for naive training, 1 for joint training; NaN where the two agree, for then nothing was lost.
    """
    lost = acc_joint - acc_naive
    return (acc - acc_naive) / lost if lost != 0.0 else math.nan


def average_accuracy_so_far(matrix: AccuracyMatrix) -> NDArray[np.float64]:
    """Average accuracy over the tasks seen: mean_{j≤t} R[t, j] for every t, shape [T]; ends at ``ACC``."""
    return np.array([_mean(matrix.after[t, : t + 1]) for t in range(matrix.tasks)])


def all_metrics(
    matrix: AccuracyMatrix,
    scratch: ArrayLike | None = None,
    acc_naive: float | None = None,
    acc_joint: float | None = None,
) -> dict[str, float | None]:
    """Compute every metric of :data:`FORMULAS`, in that order; None where undefined.

    Args:
        matrix: the run's accuracies.
        scratch: [T], accuracies of the net trained on each task alone; without it ``intransigence`` is None.
        acc_naive: ``ACC`` of naive training on the same seed; without it ``recovered`` is None.
        acc_joint: ``ACC`` of joint training on the same seed; without it ``recovered`` is None.

    Raises:
        ValueError: if ``scratch`` does not fit the matrix.
    """
    acc = average_accuracy(matrix)
    won_back = math.nan
    if acc_naive is not None and acc_joint is not None:
        won_back = recovered(acc, acc_naive, acc_joint)
    values = {
        "ACC": acc,
        "learning_accuracy": learning_accuracy(matrix),
        "BWT": backward_transfer(matrix),
        "forgetting": forgetting(matrix),
        "forgetting_first": forgetting_first(matrix),
        "FWT": forward_transfer(matrix),
        "intransigence": math.nan if scratch is None else intransigence(matrix, scratch),
        "recovered": won_back,
    }
    return {name: _or_none(value) for name, value in values.items()}


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _check_accuracies(values: NDArray[np.float64], what: str) -> None:
    outside = np.argwhere(~(np.isnan(values) | ((values >= 0.0) & (values <= 1.0))))
    if len(outside):
        place = tuple(int(i) for i in outside[0])
        raise ValueError(f"{what}: entries are fractions in [0, 1] or NaN, got {values[place]} at index {list(place)}")
