"""Ready-made MNIST streams for anybody's Avalanche script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ong.streams.builders import permuted, rotated, split
from ong.streams.datasets import load_dataset

if TYPE_CHECKING:
    from avalanche.benchmarks import CLScenario

__all__ = ["permuted_mnist", "rotated_mnist", "split_mnist"]


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
