"""From tensors to an Avalanche benchmark.

Avalanche is imported when a benchmark is made, not before: its import takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import TensorDataset

from ong.streams.stored import PreparedImages

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["TaskData", "benchmark_from_tensors", "benchmark_of_datasets", "output_count"]

_CLASS_LISTS = ("classes_in_this_experience", "previous_classes", "classes_seen_so_far", "future_classes")


@dataclass(frozen=True, eq=False)
class TaskData:
    """The tensors of one task.

    Attributes:
        train: Inputs, float32 (N, C, H, W), and labels, int64 (N,). Inputs that do not fit in memory are
            :class:`ong.streams.stored.PreparedImages`.
        test: The same of the test part.
    """

    train: tuple[torch.Tensor | PreparedImages, torch.Tensor]
    test: tuple[torch.Tensor | PreparedImages, torch.Tensor]


def benchmark_from_tensors(tasks: Sequence[TaskData], *, task_aware: bool = False) -> CLScenario:
    """Build a benchmark with one training and one test experience per task.

    Every item of every data set is (x, y, task label). Each experience has ``classes_in_this_experience`` and
    its kin (``IncrementalClassifier`` reads them). Experiences have ``task_label`` and ``task_labels`` only
    when ``task_aware``: their presence is how Avalanche decides whether the model gets to see the task's
    identity.

    Args:
        tasks: The tensors, which are kept, not copied.
        task_aware: Label task t with t and tell the model, as task-incremental learning does; otherwise every
            task is labelled 0.

    Returns:
        A benchmark with a ``train_stream`` and a ``test_stream``.
    """
    targets = _TargetAttributes()
    streams = {
        part: [
            _avalanche_dataset(x, targets(y), index if task_aware else 0, y)
            for index, (x, y) in enumerate(getattr(task, part) for task in tasks)
        ]
        for part in ("train", "test")
    }
    return benchmark_of_datasets(streams["train"], streams["test"], task_aware=task_aware)


def benchmark_of_datasets(train: Sequence[Any], test: Sequence[Any], *, task_aware: bool = False) -> CLScenario:
    """Build a benchmark of Avalanche's data sets, one for training and one for testing a task."""
    from avalanche.benchmarks import benchmark_from_datasets, with_classes_timeline, with_task_labels

    benchmark = with_classes_timeline(benchmark_from_datasets(train=list(train), test=list(test)))
    if task_aware:
        benchmark = with_task_labels(benchmark)
    _list_classes(benchmark)
    return benchmark


def output_count(benchmark: CLScenario) -> int:
    """Return how many outputs a single-headed net needs: the training stream's largest label plus one."""
    return 1 + int(max(max(experience.classes_in_this_experience) for experience in benchmark.train_stream))


@dataclass(frozen=True)
class _ClassOrder:
    """What iCaRL asks ``experience.benchmark`` for: how many classes each task has, and all of them in order."""

    n_classes_per_exp: list[int]
    classes_order: list[int]


def _list_classes(benchmark: CLScenario) -> None:
    """Turn the sets of classes of each experience into sorted lists, and tell each of the order of classes.

    ``with_classes_timeline`` of Avalanche 0.6 promises lists and makes sets, on which ``MultiHeadClassifier``
    fails.
    """
    for stream in benchmark.streams.values():
        for experience in stream:
            for name in _CLASS_LISTS:
                setattr(experience, name, sorted(getattr(experience, name)))
        tasks = [experience.classes_in_this_experience for experience in stream]
        order = _ClassOrder([len(task) for task in tasks], [label for task in tasks for label in task])
        for experience in stream:
            experience.benchmark = order


class _TargetAttributes:
    """Make Avalanche's ``targets`` attributes, one for each tensor of labels however many tasks share it.

    Avalanche scans an attribute's values item by item in Python and caches what it finds in the attribute:
    for ten tasks of 60,000 images, sharing saves a second.
    """

    def __init__(self) -> None:
        self._made: dict[int, Any] = {}

    def __call__(self, labels: torch.Tensor) -> Any:
        from avalanche.benchmarks.utils import DataAttribute

        if id(labels) not in self._made:
            self._made[id(labels)] = DataAttribute(labels.tolist(), "targets")
        return self._made[id(labels)]


def _avalanche_dataset(
    inputs: torch.Tensor | PreparedImages, targets: Any, task_label: int, labels: torch.Tensor
) -> Any:
    from avalanche.benchmarks.utils import ConstantSequence, TaskLabels

    from ong.streams.experiences.columns import PreparedDataset
    from ong.streams.experiences.items import InMemoryDataset

    examples = TensorDataset(inputs, labels) if isinstance(inputs, torch.Tensor) else PreparedDataset(inputs, labels)
    return InMemoryDataset(
        [examples],
        data_attributes=[targets, TaskLabels(ConstantSequence(task_label, len(labels)))],
    )
