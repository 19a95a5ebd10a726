"""Blurred boundaries: neighbouring tasks exchange some of their training examples."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from ong.errors import UserError
from ong.streams.benchmark import benchmark_of_datasets

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["blurred"]


def blurred(benchmark: CLScenario, share: object, seed: int) -> CLScenario:
    """Return the stream in which neighbouring tasks have exchanged a share of their training examples.

    At the boundary of tasks of n and m examples, ⌊share · min(n, m)⌋ of each go over to the other; none goes over
    twice. Which ones is drawn at random. Test data stay where they are.

    Args:
        benchmark: tasks that share their labels and are not told to the model.
        share: above 0, at most 1/2.
        seed: of the draw.

    Raises:
        UserError: another share, one that is no example, or tasks with labels of their own.
    """
    if not isinstance(share, int | float) or isinstance(share, bool) or not 0 < share <= 0.5:
        raise UserError(f"blur is {share!r}, expected a share of each task's examples above 0 and up to 0.5")
    experiences = list(benchmark.train_stream)
    classes = {tuple(experience.classes_in_this_experience) for experience in experiences}
    if len(classes) > 1 or hasattr(experiences[0], "task_label"):
        raise UserError("blur is for tasks that share their labels and are not told to the model: scenario 'domain'")
    tasks: list[Any] = [experience.dataset for experience in experiences]
    sizes = [len(task) for task in tasks]
    exchanged = [0, *(int(share * min(pair)) for pair in pairwise(sizes)), 0]
    if not any(exchanged):
        raise UserError(f"blur is {share!r}, but no two tasks of {sizes} examples have one to exchange")
    generator = torch.Generator().manual_seed(seed)
    back: list[Any] = []
    stay: list[Any] = []
    forth: list[Any] = []
    for task, size, (before, after) in zip(tasks, sizes, pairwise(exchanged), strict=True):
        order = torch.randperm(size, generator=generator)
        parts = order[:before], order[before : size - after].sort().values, order[size - after :]
        for kept, part in zip((back, stay, forth), parts, strict=True):
            kept.append(task.subset(part.tolist()))
    train = []
    for task, here in enumerate(stay):
        mixed = here if task == 0 else here.concat(forth[task - 1])
        train.append(mixed if task + 1 == len(stay) else mixed.concat(back[task + 1]))
    return benchmark_of_datasets(train, [experience.dataset for experience in benchmark.test_stream])
