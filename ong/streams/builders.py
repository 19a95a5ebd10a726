"""The streams of tasks: a data set goes in, an Avalanche benchmark comes out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING

import torch

from ong.errors import UnknownNameError, UserError
from ong.streams.benchmark import TaskData, benchmark_from_tensors
from ong.streams.images import ImageDataset
from ong.streams.registry import check_seed, stream, whole_number
from ong.streams.stored import PreparedImages, StoredImages, held
from ong.streams.transforms import Normalisation, permute_pixels, pixel_permutations, rotate

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["SCENARIOS", "Part", "benchmark_of", "check_scenario", "permuted", "rotated", "split"]

SCENARIOS = ("domain", "class", "task")
"""What a split stream asks: the label in an unknown task, the class among all, the label in a known task."""

Part = tuple[torch.Tensor | StoredImages, torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]
"""A task's images, its labels, and what makes inputs of the images."""


def check_scenario(value: object) -> None:
    """Raise ``UnknownNameError`` for what is not a scenario."""
    if value not in SCENARIOS:
        raise UnknownNameError("scenario", str(value), SCENARIOS)


def benchmark_of(tasks: Sequence[tuple[Part, Part]], *, task_aware: bool = False) -> CLScenario:
    """Return the benchmark of tasks of training and test images, as inputs in memory where those fit.

    Args:
        tasks: The training and the test part of each.
        task_aware: See :func:`ong.streams.benchmark_from_tensors`.
    """
    inputs = held([PreparedImages(images, prepare) for task in tasks for images, _, prepare in task])
    pairs = list(zip(inputs, (labels for task in tasks for _, labels, _ in task), strict=True))
    made = [TaskData(train=train, test=test) for train, test in zip(pairs[::2], pairs[1::2], strict=True)]
    return benchmark_from_tensors(made, task_aware=task_aware)


def _same_images(dataset: ImageDataset, prepare: Callable[[torch.Tensor], torch.Tensor]) -> tuple[Part, Part]:
    """Return a task of all images, prepared its own way."""
    train = (dataset.train_images, dataset.train_labels, prepare)
    return train, (dataset.test_images, dataset.test_labels, prepare)


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{what} is {value!r}, expected true or false")
    return value


@stream("permuted", "each task permutes the pixels in its own fixed way; task 0 leaves them")
def permuted(
    dataset: ImageDataset, *, tasks: int = 10, seed: int = 0, first_identity: bool = True, padding: int = 0
) -> CLScenario:
    """Build a stream in which each task permutes the pixels of all images in its own fixed way.

    Source: Goodfellow et al., "An Empirical Investigation of Catastrophic Forgetting", 2013, section 5; as in
    Kirkpatrick et al., 2017. Training and test images of a task share its permutation; labels stay, and so do the
    channels of a pixel.

    Args:
        dataset: The images.
        tasks: How many tasks.
        seed: Seed of the permutations; task t's depends on ``seed`` and t only.
        first_identity: Leave task 0 unpermuted.
        padding: Rows and columns of background on every side, permuted like the others.

    Returns:
        A domain-incremental benchmark, inputs float32 (N, C, H, W).

    Raises:
        UserError: An argument is out of range.
    """
    tasks, seed = whole_number("tasks", tasks, 1), check_seed(seed)
    dataset = dataset.padded(whole_number("padding", padding, 0))
    normalise = Normalisation(dataset)
    permutations = pixel_permutations(
        dataset.size[0] * dataset.size[1], tasks, seed, first_identity=_flag("first_identity", first_identity)
    )
    return benchmark_of(
        [_same_images(dataset, partial(_permuted, normalise, permutation)) for permutation in permutations]
    )


def _permuted(normalise: Normalisation, permutation: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    return normalise(permute_pixels(images, permutation))


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _resolve_angles(tasks: int | None, max_angle: float, angles: Sequence[float] | None) -> list[float]:
    if angles is None:
        count = whole_number("tasks", 10 if tasks is None else tasks, 1)
        if not _is_finite(max_angle):
            raise UserError(f"max_angle is {max_angle!r}, expected degrees as a finite number")
        return [float(max_angle) * task / max(count - 1, 1) for task in range(count)]
    if isinstance(angles, str) or not isinstance(angles, Sequence) or not angles:
        raise UserError(f"angles is {angles!r}, expected a list of at least one angle in degrees")
    for angle in angles:
        if not _is_finite(angle):
            raise UserError(f"angles holds {angle!r}, expected degrees as finite numbers")
    if tasks is not None and tasks != len(angles):
        raise UserError(f"tasks is {tasks!r} but {len(angles)} angles are given; leave tasks out or make them agree")
    return [float(angle) for angle in angles]


@stream("rotated", "each task rotates the images by its own angle, from 0° to 90°")
def rotated(
    dataset: ImageDataset,
    *,
    tasks: int | None = None,
    max_angle: float = 90.0,
    angles: Sequence[float] | None = None,
    padding: int = 0,
) -> CLScenario:
    """Build a stream in which each task rotates all images by its own angle.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", 2017, section 4. The angles are fixed, so this
    stream has no seed. Raw levels are rotated, bilinearly and once, and then normalised.

    Args:
        dataset: Square images.
        tasks: How many tasks; 10 by default, or as many as there are ``angles``.
        max_angle: The last task's angle in degrees; the tasks' angles are evenly spaced from 0 to it.
        angles: The angles in degrees, counter-clockwise, in place of ``max_angle``.
        padding: Rows and columns of background on every side.

    Returns:
        A domain-incremental benchmark, inputs float32 (N, C, S, S).

    Raises:
        UserError: An argument is out of range, or the images are not square.
    """
    degrees = _resolve_angles(tasks, max_angle, angles)
    dataset = dataset.padded(whole_number("padding", padding, 0))
    normalise = Normalisation(dataset)
    return benchmark_of([_same_images(dataset, partial(_rotated, normalise, angle)) for angle in degrees])


def _rotated(normalise: Normalisation, degrees: float, images: torch.Tensor) -> torch.Tensor:
    return normalise(rotate(images, degrees))


def _sizes(dataset: ImageDataset, tasks: int | None, classes_per_task: int | Sequence[int]) -> list[int]:
    """Return how many classes each task of a split stream has."""
    if isinstance(classes_per_task, Sequence) and not isinstance(classes_per_task, str):
        sizes = [whole_number("classes_per_task", size, 1) for size in classes_per_task]
        if not sizes or tasks not in (None, len(sizes)):
            raise UserError(
                f"tasks is {tasks!r} but classes_per_task lists {len(sizes)}; leave tasks out or make them agree"
            )
    else:
        size = whole_number("classes_per_task", classes_per_task, 1)
        count = max(dataset.classes // size, 1) if tasks is None else whole_number("tasks", tasks, 1)
        sizes = [size] * count
        left = dataset.classes - sum(sizes)
        if tasks is None and left > 0:
            warnings.warn(
                f"{count} tasks of {size} classes leave out {left} of data set '{dataset.name}'s {dataset.classes}; "
                f"classes_per_task = {[*sizes, left]} takes all, tasks = {count} says that this is meant",
                stacklevel=3,
            )
    if sum(sizes) > dataset.classes:
        raise UserError(
            f"{len(sizes)} tasks of {classes_per_task} classes take {sum(sizes)}, but data set '{dataset.name}' has "
            f"{dataset.classes}; expected fewer tasks or classes_per_task"
        )
    return sizes


@stream("split", "new classes in each task; domain-, class- or task-incremental")
def split(
    dataset: ImageDataset,
    *,
    tasks: int | None = None,
    scenario: str = "domain",
    seed: int = 0,
    shuffle_classes: bool = False,
    classes_per_task: int | Sequence[int] = 2,
) -> CLScenario:
    """Build a stream in which each task brings classes of its own.

    Source: Zenke et al., "Continual Learning Through Synaptic Intelligence", 2017, section 5.1; the scenarios
    are those of van de Ven et al., "Three types of incremental learning", 2022.

    Args:
        dataset: The images. Classes beyond those that the tasks take are left out.
        tasks: How many tasks; as many as the classes suffice for by default.
        scenario: ``"domain"``: labels 0, 1, …, the place of the class within its task. ``"class"``: the data
            set's own labels. ``"task"``: labels as in ``"domain"``, and the model is told the task.
        seed: Seed of the order of classes when ``shuffle_classes``; otherwise it changes nothing.
        shuffle_classes: Take the classes in random order rather than in that of their labels.
        classes_per_task: How many classes each task brings, or a list with the number of each task.

    Returns:
        The benchmark, inputs float32 (N, C, H, W).

    Raises:
        UnknownNameError: There is no such scenario.
        UserError: An argument is out of range, there are fewer classes than the tasks take, or a class has no images.
    """
    sizes, seed = _sizes(dataset, tasks, classes_per_task), check_seed(seed)
    check_scenario(scenario)
    order = torch.arange(dataset.classes)
    if _flag("shuffle_classes", shuffle_classes):
        order = torch.randperm(dataset.classes, generator=torch.Generator().manual_seed(seed))
    normalise = Normalisation(dataset)

    def part(images: torch.Tensor | StoredImages, labels: torch.Tensor, classes: torch.Tensor) -> Part:
        chosen = torch.isin(labels, classes)
        if not chosen.any():
            raise UserError(f"data set '{dataset.name}' has no images of classes {classes.tolist()}")
        place = torch.empty(dataset.classes, dtype=torch.int64)
        place[classes] = torch.arange(len(classes))
        kept = labels[chosen]
        return images[chosen], kept if scenario == "class" else place[kept], normalise

    return benchmark_of(
        [
            (
                part(dataset.train_images, dataset.train_labels, classes),
                part(dataset.test_images, dataset.test_labels, classes),
            )
            for classes in torch.split(order[: sum(sizes)], sizes)
        ],
        task_aware=scenario == "task",
    )
