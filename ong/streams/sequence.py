"""A stream in which each task is another data set."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from ong.errors import UserError
from ong.streams.builders import Part, benchmark_of, check_scenario
from ong.streams.images import ImageDataset
from ong.streams.registry import stream
from ong.streams.transforms import Normalisation

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["sequence"]


@stream("sequence", "another data set in each task, out of a list; as split", several=True)
def sequence(
    datasets: Sequence[ImageDataset],
    *,
    scenario: str = "domain",
    size: int | None = None,
    channels: int | None = None,
) -> CLScenario:
    """Build a stream in which each task is a data set, as in 5-datasets.

    Source: Ebrahimi et al., "Adversarial Continual Learning", 2020, section 5. Images are brought to one size and one
    number of channels (:func:`ong.streams.images.fitted`); each data set is normalised by its own training pixels.

    Args:
        datasets: One a task.
        scenario: ``"class"``: labels follow one another, those of task t begin after those of task t − 1. ``"domain"``:
            the data sets' own labels, shared by all. ``"task"``: own labels, and the model is told the task.
        size: Height and width of all images; by default the longest side there is.
        channels: 1 or 3; by default 3 where any data set has colours.

    Returns:
        The benchmark, inputs float32 (N, channels, size, size).

    Raises:
        UnknownNameError: There is no such scenario.
        UserError: Fewer than two data sets, or a size or number of channels out of range.
    """
    check_scenario(scenario)
    if len(datasets) < 2:
        raise UserError("a sequence takes a list of at least two data sets: dataset = ['mnist', 'svhn']")
    if size is None:
        size = max(max(dataset.size) for dataset in datasets)
    if channels is None:
        channels = max(dataset.channels for dataset in datasets)
    if size < 1 or channels not in (1, 3):
        raise UserError(f"size is {size} and channels {channels}, expected a size of at least 1, and 1 or 3 channels")
    starts = [0, *accumulate(dataset.classes for dataset in datasets)] if scenario == "class" else [0] * len(datasets)
    return benchmark_of(
        [_task(dataset.fitted(size, channels), start) for dataset, start in zip(datasets, starts, strict=False)],
        task_aware=scenario == "task",
    )


def _task(dataset: ImageDataset, start: int) -> tuple[Part, Part]:
    normalise = Normalisation(dataset)
    train = (dataset.train_images, dataset.train_labels + start, normalise)
    return train, (dataset.test_images, dataset.test_labels + start, normalise)
