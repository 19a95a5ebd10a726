"""The streams by name, and ready-made MNIST streams for anybody's Avalanche script."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ong.errors import UnknownNameError, UserError
from ong.streams.builders import check_seed, permuted, rotated, split
from ong.streams.datasets import load_dataset
from ong.streams.images import ImageDataset
from ong.streams.sequence import sequence

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["STREAMS", "StreamEntry", "build_stream", "permuted_mnist", "rotated_mnist", "split_mnist"]


@dataclass(frozen=True)
class StreamEntry:
    """A line of the registry.

    Attributes:
        description: One line for people.
        build: Takes the data set, and keyword-only options, among them ``seed`` when the stream is random.
        several: Whether it takes a list of data sets.
    """

    description: str
    build: Callable[..., CLScenario]
    several: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """The names of the options that a recipe may set; ``seed`` is not one, as a run sets it."""
        parameters = inspect.signature(self.build).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "seed")

    @property
    def seeded(self) -> bool:
        """Whether the stream depends on a seed."""
        return "seed" in inspect.signature(self.build).parameters


STREAMS: dict[str, StreamEntry] = {
    "permuted": StreamEntry("each task permutes the pixels in its own fixed way; task 0 leaves them", permuted),
    "rotated": StreamEntry("each task rotates the images by its own angle, from 0° to 90°", rotated),
    "split": StreamEntry("new classes in each task; domain-, class- or task-incremental", split),
    "sequence": StreamEntry("another data set in each task, out of a list; as split", sequence, several=True),
}
"""The streams that :func:`build_stream` knows, by name."""


def build_stream(name: str, dataset: ImageDataset | list[ImageDataset], seed: int, **options: Any) -> CLScenario:
    """Build a stream by name, as a benchmark recipe's ``stream`` table describes it.

    Args:
        name: A key of :data:`STREAMS`.
        dataset: The images; a list of data sets for a stream that takes several (``sequence``).
        seed: The run's seed; a stream without randomness (``rotated``) does not depend on it.
        options: The stream's own options, see its builder.

    Returns:
        An Avalanche benchmark with ``train_stream`` and ``test_stream``.

    Raises:
        UnknownNameError: No stream, or no option of it, has that name.
        UserError: An option is out of range, or one data set is given for several or the reverse.
    """
    if name not in STREAMS:
        raise UnknownNameError("stream", name, STREAMS)
    entry = STREAMS[name]
    if entry.several != isinstance(dataset, list):
        raise UserError(
            f"stream '{name}' takes {'a list of data sets' if entry.several else 'one data set'}, "
            f"got {'a list' if isinstance(dataset, list) else 'one'}"
        )
    for option in options:
        if option not in entry.options:
            raise UnknownNameError(f"option of stream '{name}'", option, entry.options)
    seed = check_seed(seed)
    return entry.build(dataset, **({"seed": seed} if entry.seeded else {}), **options)


def permuted_mnist(
    *,
    tasks: int = 10,
    seed: int = 0,
    first_identity: bool = True,
    dataset: str = "mnist-10k",
    data_root: str | Path | None = None,
) -> CLScenario:
    """Return Permuted MNIST as an Avalanche benchmark; see :func:`ong.streams.permuted`.

    Args:
        tasks: How many tasks.
        seed: Seed of the permutations.
        first_identity: Leave task 0 unpermuted.
        dataset: A key of :data:`ong.streams.DATASETS`.
        data_root: Where its files lie, see :func:`ong.streams.load_dataset`.
    """
    return permuted(load_dataset(dataset, data_root), tasks=tasks, seed=seed, first_identity=first_identity)


def rotated_mnist(
    *,
    tasks: int | None = None,
    seed: int = 0,
    max_angle: float = 90.0,
    angles: Sequence[float] | None = None,
    dataset: str = "mnist-10k",
    data_root: str | Path | None = None,
) -> CLScenario:
    """Return Rotated MNIST as an Avalanche benchmark; see :func:`ong.streams.rotated`.

    Args:
        tasks: How many tasks; 10 by default, or as many as there are ``angles``.
        seed: Taken so that all three streams are called alike; nothing here is random.
        max_angle: The last task's angle in degrees.
        angles: The angles in degrees, in place of evenly spaced ones.
        dataset: A key of :data:`ong.streams.DATASETS`.
        data_root: Where its files lie, see :func:`ong.streams.load_dataset`.
    """
    del seed
    return rotated(load_dataset(dataset, data_root), tasks=tasks, max_angle=max_angle, angles=angles)


def split_mnist(
    *,
    tasks: int = 5,
    scenario: str = "domain",
    seed: int = 0,
    shuffle_classes: bool = False,
    dataset: str = "mnist-10k",
    data_root: str | Path | None = None,
) -> CLScenario:
    """Return Split MNIST as an Avalanche benchmark; see :func:`ong.streams.split`.

    Args:
        tasks: How many tasks of two classes.
        scenario: ``"domain"``, ``"class"`` or ``"task"``.
        seed: Seed of the order of classes when ``shuffle_classes``.
        shuffle_classes: Take the classes in random order.
        dataset: A key of :data:`ong.streams.DATASETS`.
        data_root: Where its files lie, see :func:`ong.streams.load_dataset`.
    """
    images = load_dataset(dataset, data_root)
    return split(images, tasks=tasks, scenario=scenario, seed=seed, shuffle_classes=shuffle_classes)
