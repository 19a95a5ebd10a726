"""The streams of tasks: a data set goes in, an Avalanche benchmark comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import TYPE_CHECKING

import torch

from ong.errors import UnknownNameError, UserError
from ong.streams.benchmark import TaskData, benchmark_from_tensors
from ong.streams.images import ImageDataset
from ong.streams.transforms import Normalisation, permute_pixels, pixel_permutations, rotate

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["SCENARIOS", "check_seed", "permuted", "rotated", "split"]

SCENARIOS = ("domain", "class", "task")
"""What a split stream asks: the label in an unknown task, the class among all, the label in a known task."""


def _whole_number(what: str, value: object, least: int) -> int:
    """Return ``value`` when it is an integer, NumPy's too, of at least ``least``; raise ``UserError`` otherwise."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise UserError(f"{what} is {value!r}, expected a whole number of at least {least}")
    return int(value)


def check_seed(value: object) -> int:
    """Return a seed from 0 to 2⁶³ − 1; raise ``UserError`` otherwise."""
    seed = _whole_number("seed", value, 0)
    if seed >= 2**63:
        raise UserError(f"seed is {seed}, expected less than 2**63")
    return seed


def _flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise UserError(f"{what} is {value!r}, expected true or false")
    return value


def permuted(
    dataset: ImageDataset, *, tasks: int = 10, seed: int = 0, first_identity: bool = True, padding: int = 0
) -> CLScenario:
    """Build a stream in which each task permutes the pixels of all images in its own fixed way.

    Source: Goodfellow et al., "An Empirical Investigation of Catastrophic Forgetting", 2013, section 5; as in
    Kirkpatrick et al., 2017. Training and test images of a task share its permutation; labels stay.

    Args:
        dataset: The images.
        tasks: How many tasks.
        seed: Seed of the permutations; task t's depends on ``seed`` and t only.
        first_identity: Leave task 0 unpermuted.
        padding: Rows and columns of background on every side, permuted like the others.

    Returns:
        A domain-incremental benchmark, inputs float32 (N, 1, H, W).

    Raises:
        UserError: An argument is out of range.
    """
    tasks, seed = _whole_number("tasks", tasks, 1), check_seed(seed)
    dataset = dataset.padded(_whole_number("padding", padding, 0))
    normalise = Normalisation(dataset)
    train, test = normalise(dataset.train_images).squeeze(1), normalise(dataset.test_images).squeeze(1)
    permutations = pixel_permutations(
        train[0].numel(), tasks, seed, first_identity=_flag("first_identity", first_identity)
    )
    return benchmark_from_tensors(
        [
            TaskData(
                train=(permute_pixels(train, permutation).unsqueeze(1), dataset.train_labels),
                test=(permute_pixels(test, permutation).unsqueeze(1), dataset.test_labels),
            )
            for permutation in permutations
        ]
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _resolve_angles(tasks: int | None, max_angle: float, angles: Sequence[float] | None) -> list[float]:
    if angles is None:
        count = _whole_number("tasks", 10 if tasks is None else tasks, 1)
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
    stream has no seed. Raw grey levels are rotated, bilinearly and once, and then normalised.

    Args:
        dataset: Square images.
        tasks: How many tasks; 10 by default, or as many as there are ``angles``.
        max_angle: The last task's angle in degrees; the tasks' angles are evenly spaced from 0 to it.
        angles: The angles in degrees, counter-clockwise, in place of ``max_angle``.
        padding: Rows and columns of background on every side.

    Returns:
        A domain-incremental benchmark, inputs float32 (N, 1, S, S).

    Raises:
        UserError: An argument is out of range, or the images are not square.
    """
    degrees = _resolve_angles(tasks, max_angle, angles)
    dataset = dataset.padded(_whole_number("padding", padding, 0))
    normalise = Normalisation(dataset)
    return benchmark_from_tensors(
        [
            TaskData(
                train=(normalise(rotate(dataset.train_images, angle)), dataset.train_labels),
                test=(normalise(rotate(dataset.test_images, angle)), dataset.test_labels),
            )
            for angle in degrees
        ]
    )


def split(
    dataset: ImageDataset,
    *,
    tasks: int = 5,
    scenario: str = "domain",
    seed: int = 0,
    shuffle_classes: bool = False,
) -> CLScenario:
    """Build a stream in which each task brings two classes.

    Source: Zenke et al., "Continual Learning Through Synaptic Intelligence", 2017, section 5.1; the scenarios
    are those of van de Ven et al., "Three types of incremental learning", 2022.

    Args:
        dataset: The images. Classes beyond the first ``2 * tasks`` of the order are left out.
        tasks: How many tasks.
        scenario: ``"domain"``: labels 0 and 1, the place of the class within its task. ``"class"``: the data
            set's own labels. ``"task"``: labels 0 and 1, and the model is told the task.
        seed: Seed of the order of classes when ``shuffle_classes``; otherwise it changes nothing.
        shuffle_classes: Take the classes in random order rather than in that of their labels.

    Returns:
        The benchmark, inputs float32 (N, 1, H, W).

    Raises:
        UnknownNameError: There is no such scenario.
        UserError: An argument is out of range, or there are fewer than ``2 * tasks`` classes.
    """
    tasks, seed = _whole_number("tasks", tasks, 1), check_seed(seed)
    if scenario not in SCENARIOS:
        raise UnknownNameError("scenario", str(scenario), SCENARIOS)
    if 2 * tasks > dataset.classes:
        raise UserError(
            f"tasks is {tasks}, two classes each, but data set '{dataset.name}' has {dataset.classes}; "
            f"expected at most {dataset.classes // 2} tasks"
        )
    order = torch.arange(dataset.classes)
    if _flag("shuffle_classes", shuffle_classes):
        order = torch.randperm(dataset.classes, generator=torch.Generator().manual_seed(seed))
    normalise = Normalisation(dataset)

    def part(images: torch.Tensor, labels: torch.Tensor, pair: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.isin(labels, pair)
        kept = labels[chosen]
        return normalise(images[chosen]), kept if scenario == "class" else (kept == pair[1]).long()

    pairs = order[: 2 * tasks].view(tasks, 2)
    return benchmark_from_tensors(
        [
            TaskData(
                train=part(dataset.train_images, dataset.train_labels, pair),
                test=part(dataset.test_images, dataset.test_labels, pair),
            )
            for pair in pairs
        ],
        task_aware=scenario == "task",
    )
