"""Data sets that are read item by item: torchvision's, image folders, and those of one's own."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch

from ong.errors import UserError
from ong.streams.images import ImageDataset, fitted
from ong.streams.stored import StoredImages, fits_in_memory

__all__ = ["MapStyle", "from_items"]

_LABELS = ("targets", "labels", "_labels")  # of torchvision's data sets


class MapStyle(Protocol):
    """Examples by number, as those of PyTorch's map-style data sets."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, index: int, /) -> Any:
        """Return an image and its label."""
        ...


def from_items(
    name: str,
    train: MapStyle,
    test: MapStyle,
    source: str,
    *,
    size: int | None = None,
    channels: int | None = None,
    classes: int | None = None,
) -> ImageDataset:
    """Return the data set of two map-style ones: ``len(part)`` and ``part[i]``, which is (image, label).

    An image is a PIL image, or an array or tensor: uint8, or float within 0 … 1; (H, W), an array (H, W, C), a tensor
    (C, H, W). The labels are read from ``targets`` or ``labels`` where a part has these, so that no image is decoded
    for its label. Images are kept in memory where they fit, and read anew for each batch where they do not.

    Args:
        name: What messages call it.
        train: Training examples.
        test: Test examples.
        source: Where they come from.
        size: Height and width that images are brought to; by default the first image's, which all must have.
        channels: 1 or 3; by default the first image's.
        classes: How many classes there are; by default the largest label plus one.

    Raises:
        UserError: No examples, an image or a label of another kind, or images of different sizes without ``size``.
    """
    if not len(train) or not len(test):
        raise UserError(f"data set '{name}': {len(train)} training and {len(test)} test examples; both are needed")
    first = _as_tensor(train[0][0], name)
    channels = first.shape[0] if channels is None else channels
    shape = tuple(fitted(first, size, channels).shape)
    parts = [_part(part, name, shape, size, channels) for part in (train, test)]
    labels = [_labels(part, name) for part in (train, test)]
    if classes is None:
        classes = 1 + max(int(part.max()) for part in labels)
    return ImageDataset(name, parts[0], labels[0], parts[1], labels[1], classes, source)


def _part(
    items: MapStyle, name: str, shape: tuple[int, ...], size: int | None, channels: int
) -> torch.Tensor | StoredImages:
    def read(row: int) -> torch.Tensor:
        image = fitted(_as_tensor(items[row][0], name), size, channels)
        if tuple(image.shape) != shape:
            raise UserError(
                f"data set '{name}': image {row} has shape {tuple(image.shape)}, the first one {shape}; "
                f"give the data set a size, to which all are brought: dataset = {{ …, size = {max(shape[1:])} }}"
            )
        return image

    images = StoredImages(read, torch.arange(len(items)))
    return images.tensor() if fits_in_memory(images.numel()) else images


def _as_tensor(image: Any, name: str) -> torch.Tensor:
    """Return an image as uint8 (C, H, W)."""
    from PIL import Image
    from torchvision.transforms.v2 import functional

    if isinstance(image, Image.Image):
        image = functional.pil_to_tensor(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image if image.ndim == 2 else np.moveaxis(image, -1, 0))
    if not isinstance(image, torch.Tensor) or image.ndim not in (2, 3):
        what = f"a tensor of shape {tuple(image.shape)}" if isinstance(image, torch.Tensor) else type(image).__name__
        raise UserError(f"data set '{name}': an image is {what}, expected a PIL image, an array or a tensor (C, H, W)")
    levels: torch.Tensor = image if image.ndim == 3 else image[None]
    low, high = float(levels.min()), float(levels.max())
    if levels.is_floating_point() and low >= 0 and high <= 1:
        return (levels * 255).round().to(torch.uint8)
    if levels.dtype != torch.uint8:
        raise UserError(
            f"data set '{name}': an image is {levels.dtype} of {low:g} … {high:g}, expected uint8, or float within "
            "0 … 1; leave normalisation to the stream"
        )
    return levels


def _labels(items: Any, name: str) -> torch.Tensor:
    """Return the labels of a part, int64 (N,)."""
    known = next((getattr(items, key) for key in _LABELS if hasattr(items, key)), None)
    try:
        labels = torch.tensor([int(label) for label in ([item[1] for item in items] if known is None else known)])
    except (TypeError, ValueError, IndexError) as error:
        raise UserError(f"data set '{name}': a label is not a whole number ({error})") from None
    if len(labels) != len(items):
        raise UserError(f"data set '{name}': {len(labels)} labels for {len(items)} examples")
    return labels
