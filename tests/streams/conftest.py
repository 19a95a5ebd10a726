from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ong.streams import ImageDataset, load_dataset


@pytest.fixture(scope="session")
def digits() -> ImageDataset:
    return load_dataset("digits")


@pytest.fixture(scope="session")
def mnist10k() -> ImageDataset:
    return load_dataset("mnist-10k")


@pytest.fixture
def tiny() -> ImageDataset:
    """Return 40 + 20 random images of 6×6 in 5 classes."""
    generator = torch.Generator().manual_seed(0)
    return ImageDataset(
        name="tiny",
        train_images=torch.randint(256, (40, 6, 6), generator=generator).to(torch.uint8),
        train_labels=torch.arange(40) % 5,
        test_images=torch.randint(256, (20, 6, 6), generator=generator).to(torch.uint8),
        test_labels=torch.arange(20) % 5,
        classes=5,
        source="test",
    )


def tensors(experience: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return an experience's inputs, labels and task labels, read item by item through Avalanche."""
    items = [experience.dataset[i] for i in range(len(experience.dataset))]
    x, y, t = zip(*items, strict=True)
    return torch.stack(x), torch.stack(y), torch.tensor(t)


def same(first: Any, second: Any) -> bool:
    """Whether two benchmarks hold the same items."""
    return all(
        torch.equal(a, b)
        for stream in ("train_stream", "test_stream")
        for pair in zip(getattr(first, stream), getattr(second, stream), strict=True)
        for a, b in zip(*map(tensors, pair), strict=True)
    )


def idx_bytes(values: torch.Tensor) -> bytes:
    """Return a uint8 tensor as an IDX file, written by hand from the format's description."""
    header = bytes([0, 0, 8, values.dim()])
    for size in values.shape:
        header += size.to_bytes(4, "big")
    return header + bytes(int(value) for value in values.flatten())


FASHION_LABELS = torch.tensor([9, 2, 1, 1, 6, 1, 4, 6, 5, 7] * 2)
"""As the true test labels begin."""


@pytest.fixture
def idx_folder(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the four files of a small Fashion-MNIST; keywords replace files."""

    def write(folder: Path = tmp_path / "FashionMNIST" / "raw", **replaced: bytes) -> Path:
        generator = torch.Generator().manual_seed(1)
        contents = {
            "train-images-idx3-ubyte": torch.randint(256, (30, 4, 4), generator=generator),
            "train-labels-idx1-ubyte": torch.arange(30) % 10,
            "t10k-images-idx3-ubyte": torch.randint(256, (20, 4, 4), generator=generator),
            "t10k-labels-idx1-ubyte": FASHION_LABELS,
        }
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in contents.items():
            key = name.replace("-", "_")
            (folder / name).write_bytes(replaced.get(key, idx_bytes(values)))
        return folder

    return write
