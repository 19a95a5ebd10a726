"""Data sets and in-memory Avalanche streams.

Avalanche is imported by the functions that build benchmarks and by ``InMemoryLoader``, not by this package.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ong.streams.benchmark import TaskData, benchmark_from_tensors, output_count
from ong.streams.builders import SCENARIOS, permuted, rotated, split
from ong.streams.datasets import load_dataset
from ong.streams.images import ImageDataset
from ong.streams.map_style import from_items
from ong.streams.ready_made import permuted_mnist, rotated_mnist, split_mnist
from ong.streams.registry import DATASETS, STREAMS, build_stream, dataset, stream
from ong.streams.sequence import sequence
from ong.streams.tensors import TensorLoader

if TYPE_CHECKING:
    from ong.streams.experiences.loader import InMemoryLoader

__all__ = [
    "DATASETS",
    "SCENARIOS",
    "STREAMS",
    "ImageDataset",
    "InMemoryLoader",
    "TaskData",
    "TensorLoader",
    "benchmark_from_tensors",
    "build_stream",
    "dataset",
    "from_items",
    "load_dataset",
    "output_count",
    "permuted",
    "permuted_mnist",
    "rotated",
    "rotated_mnist",
    "sequence",
    "split",
    "split_mnist",
    "stream",
]


def __getattr__(name: str) -> Any:
    """Import ``InMemoryLoader``, and Avalanche with it, when it is first asked for."""
    if name == "InMemoryLoader":
        from ong.streams.experiences.loader import InMemoryLoader

        return InMemoryLoader
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
