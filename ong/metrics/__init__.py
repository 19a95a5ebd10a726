"""The accuracy matrix of a continual-learning run, and every metric as a pure function of it.

Write R[t, j] for the accuracy on task j after training task t, for T tasks counted from 0; row −1 is
measured before any training. Frameworks differ in what they call forgetting, so each metric states its formula and
every report prints it. A file in this folder with a function under :func:`metric` is a metric more.

A metric is undefined when its inputs are missing (NaN: joint training has no intermediate rows) or when it is
a mean over no tasks (backward transfer with T = 1): the functions return NaN, :func:`all_metrics` None.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from ong.extensions import Extensions
from ong.metrics.matrix import AccuracyMatrix
from ong.metrics.metric import Metric, Others, metric
from ong.metrics.usual import (
    average_accuracy,
    average_accuracy_so_far,
    backward_transfer,
    forgetting,
    forgetting_first,
    forward_transfer,
    intransigence,
    learning_accuracy,
    recovered,
)

__all__ = [
    "METRICS",
    "AccuracyMatrix",
    "Metric",
    "Others",
    "all_metrics",
    "average_accuracy",
    "average_accuracy_so_far",
    "backward_transfer",
    "forgetting",
    "forgetting_first",
    "forward_transfer",
    "intransigence",
    "learning_accuracy",
    "metric",
    "recovered",
]

METRICS = Extensions(Metric, "metric", "ong.metrics", "ong.metrics", by="ong.metrics.metric", first="usual")
"""Every metric by name, in the order of every table: those of records, then those of other distributions."""


def all_metrics(
    matrix: AccuracyMatrix, others: Others | None = None, metrics: Iterable[Metric] | None = None
) -> dict[str, float | None]:
    """Compute metrics of a run by name; None where undefined.

    Args:
        matrix: the run's accuracies.
        others: those of other strategies with the same benchmark and seed, by name: without ``scratch`` there is no
            ``intransigence``, without ``naive`` and ``joint`` nothing is ``recovered``.
        metrics: which; those that every record has if None.

    Raises:
        UserError: a metric that fails.
    """
    chosen = METRICS.own.values() if metrics is None else metrics
    values = {metric.name: metric(matrix, others) for metric in chosen}
    return {name: None if math.isnan(value) else value for name, value in values.items()}
