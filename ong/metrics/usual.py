"""The metrics of every record, from accuracies alone and beside those of naive, joint and scratch training."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ong.metrics.matrix import AccuracyMatrix, check_accuracies, mean
from ong.metrics.metric import Others, metric

__all__ = [
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


@metric("ACC", about="average accuracy at the end", formula="mean_j R[T−1, j]", better="higher")
def average_accuracy(matrix: AccuracyMatrix) -> float:
    """``ACC`` = mean_j R[T−1, j] (Lopez-Paz and Ranzato, GEM, 2017, eq. 2)."""
    return mean(matrix.after[-1])


@metric(
    "learning_accuracy",
    title="Learning acc.",
    about="accuracy on each task just learned",
    formula="mean_j R[j, j]",
    better="higher",
)
def learning_accuracy(matrix: AccuracyMatrix) -> float:
    """Plasticity: mean_j R[j, j], accuracy on each task just learned (Riemer et al., MER, 2019)."""
    return mean(np.diagonal(matrix.after))


@metric("BWT", about="backward transfer", formula="mean_{j<T−1} (R[T−1, j] − R[j, j])", better="higher")
def backward_transfer(matrix: AccuracyMatrix) -> float:
    """``BWT`` = mean_{j<T−1} (R[T−1, j] − R[j, j]) (Lopez-Paz and Ranzato, GEM, 2017, eq. 3).

    NaN if T = 1.
    """
    return mean((matrix.after[-1] - np.diagonal(matrix.after))[:-1])


@metric(
    "forgetting",
    title="Forgetting",
    about="loss from each task's best",
    formula="mean_{j<T−1} (max_{t<T} R[t, j] − R[T−1, j])",
    better="lower",
)
def forgetting(matrix: AccuracyMatrix) -> float:
    """Loss from each task's best: mean_{j<T−1} (max_{t<T} R[t, j] − R[T−1, j]), as in Mammoth and PyCIL.

    The maximum runs over all rows after training, the last included, so forgetting is never negative.
    NaN if T = 1.
    """
    return mean((matrix.after.max(axis=0) - matrix.after[-1])[:-1])


@metric(
    "forgetting_first",
    title="Forgetting (first)",
    about="loss since each task was learned",
    formula="mean_{j<T−1} (R[j, j] − R[T−1, j]) = −BWT",
    better="lower",
    on_request=True,
)
def forgetting_first(matrix: AccuracyMatrix) -> float:
    """Loss since each task was learned: mean_{j<T−1} (R[j, j] − R[T−1, j]) = −BWT, as in Avalanche.

    NaN if T = 1.
    """
    return mean((np.diagonal(matrix.after) - matrix.after[-1])[:-1])


# Accuracy on a task before it is trained depends on what the tasks share more than on the learner: nobody competes.
@metric("FWT", about="forward transfer", formula="mean_{j>0} (R[j−1, j] − R[−1, j])")
def forward_transfer(matrix: AccuracyMatrix) -> float:
    """``FWT`` = mean_{j>0} (R[j−1, j] − R[−1, j]) (Lopez-Paz and Ranzato, GEM, 2017, eq. 4).

    NaN if T = 1.
    """
    return mean(np.diagonal(matrix.after, offset=1) - matrix.before[1:])


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
    check_accuracies(alone, "scratch accuracies")
    return mean(alone - np.diagonal(matrix.after))


@metric(
    "intransigence",
    title="Intransigence",
    about="below a net trained on the task alone",
    formula="mean_j (scratch_j − R[j, j])",
    better="lower",
)
def _intransigence(matrix: AccuracyMatrix, others: Others) -> float:
    return intransigence(matrix, np.diagonal(others["scratch"].after)) if "scratch" in others else math.nan


def recovered(acc: float, acc_naive: float, acc_joint: float) -> float:
    """How much of what forgetting costs is won back: (ACC − ACC_naive) / (ACC_joint − ACC_naive).

    0 for naive training, 1 for joint training; NaN where the two agree, for then nothing was lost.
    """
    lost = acc_joint - acc_naive
    return (acc - acc_naive) / lost if lost != 0.0 else math.nan


@metric(
    "recovered",
    title="Recovered",
    about="of what forgetting costs, the part won back",
    formula="(ACC − ACC_naive) / (ACC_joint − ACC_naive)",
    better="higher",
)
def _recovered(matrix: AccuracyMatrix, others: Others) -> float:
    if not {"naive", "joint"} <= others.keys():
        return math.nan
    return recovered(*map(average_accuracy, (matrix, others["naive"], others["joint"])))


def average_accuracy_so_far(matrix: AccuracyMatrix) -> NDArray[np.float64]:
    """Average accuracy over the tasks seen: mean_{j≤t} R[t, j] for every t, shape [T]; ends at ``ACC``."""
    return np.array([mean(matrix.after[t, : t + 1]) for t in range(matrix.tasks)])
