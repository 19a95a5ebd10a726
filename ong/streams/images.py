"""A data set of images: what every stream is made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ong.errors import UserError
from ong.streams.stored import StoredImages

__all__ = ["ImageDataset", "fitted"]

_HELD_OUT_SEED = 6
_COLOURS = 3


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled images, grey or of several channels, divided into a training and a test part.

    Attributes:
        name: The name under which the data set is known.
        train_images: uint8, shape (N, H, W) or (N, C, H, W); 0 is background, 255 ink or light. Images that do not fit
            in memory are :class:`ong.streams.stored.StoredImages`.
        train_labels: int64, shape (N,); values in 0 … classes − 1.
        test_images: uint8, shape (M, H, W) or (M, C, H, W).
        test_labels: int64, shape (M,).
        classes: How many classes there are.
        source: Where the data were read, for messages and records.

    Raises:
        UserError: The tensors contradict each other or the description above.
    """

    name: str
    train_images: torch.Tensor | StoredImages
    train_labels: torch.Tensor
    test_images: torch.Tensor | StoredImages
    test_labels: torch.Tensor
    classes: int
    source: str

    def __post_init__(self) -> None:
        _check_part(f"{self.source}: train", self.train_images, self.train_labels, self.classes)
        _check_part(f"{self.source}: test", self.test_images, self.test_labels, self.classes)
        train, test = tuple(self.train_images.shape[1:]), tuple(self.test_images.shape[1:])
        if train != test:
            raise UserError(f"{self.source}: test images have size {test}, expected {train} as the training images")

    @property
    def channels(self) -> int:
        """How many channels an image has; 1 when it is grey."""
        return self.train_images.shape[1] if len(self.train_images.shape) == 4 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        height, width = self.train_images.shape[-2:]
        return height, width

    def padded(self, by: int) -> ImageDataset:
        """Return the images with ``by`` rows and columns of background on every side: 28 × 28 and 2 make 32 × 32."""
        return self._changed(lambda images: F.pad(images, (by, by, by, by))) if by else self

    def fitted(self, size: int | None = None, channels: int | None = None) -> ImageDataset:
        """Return the images with a size and a number of channels, see :func:`fitted`.

        Args:
            size: Height and width; None leaves them.
            channels: 1 or 3; None leaves them.
        """
        if (size is None or self.size == (size, size)) and channels in (None, self.channels):
            return self
        return self._changed(lambda images: fitted(images if images.ndim == 4 else images[:, None], size, channels))

    def for_validation(self) -> ImageDataset:
        """Return the training part alone: five sixths to train, the other sixth in the place of the test images.

        Which images those are depends on their number only, so it is the same for every seed and strategy.

        Raises:
            UserError: fewer than six training images.
        """
        count = len(self.train_images)
        held, order = count // 6, torch.randperm(count, generator=torch.Generator().manual_seed(_HELD_OUT_SEED))
        if not held:
            raise UserError(f"{self.source}: {count} training images, expected at least 6 to hold out a sixth")
        return replace(
            self,
            train_images=self.train_images[order[held:]],
            train_labels=self.train_labels[order[held:]],
            test_images=self.train_images[order[:held]],
            test_labels=self.train_labels[order[:held]],
            source=f"{self.source}, training part",
        )

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> ImageDataset:
        train, test = (
            images.changed(change) if isinstance(images, StoredImages) else change(images)
            for images in (self.train_images, self.test_images)
        )
        return replace(self, train_images=train, test_images=test)


def fitted(images: torch.Tensor, size: int | None, channels: int | None) -> torch.Tensor:
    """Return images of a size, with a number of channels.

    The shorter side becomes ``size`` (bilinear, antialiased), and what the longer one has beyond it is cut off on both
    ends. Grey becomes three equal channels; colour becomes its luma, .299 R + .587 G + .114 B.

    Args:
        images: uint8, shape (…, C, H, W).
        size: Height and width wanted; None leaves them.
        channels: 1 or 3; None leaves them.

    Raises:
        UserError: Another number of channels.
    """
    from torchvision.transforms.v2 import functional

    if channels is not None and channels != images.shape[-3]:
        if {channels, images.shape[-3]} != {1, _COLOURS}:
            raise UserError(f"images of {images.shape[-3]} channels cannot become ones of {channels}; 1 and 3 can")
        if channels == 1:  # of bytes it would be rounded down
            images = functional.rgb_to_grayscale(images.float()).round().to(torch.uint8)
        else:
            images = functional.grayscale_to_rgb(images)
    if size is not None and tuple(images.shape[-2:]) != (size, size):
        images = functional.center_crop(functional.resize(images, [size], antialias=True), [size, size])
    return images


def _check_part(where: str, images: torch.Tensor | StoredImages, labels: torch.Tensor, classes: int) -> None:
    """Raise ``UserError`` unless ``images`` and ``labels`` fit each other."""
    if images.dtype != torch.uint8 or len(images.shape) not in (3, 4) or images.numel() == 0:
        raise UserError(
            f"{where} images: found {images.dtype} of shape {tuple(images.shape)}, expected uint8 of (N, H, W) or "
            "(N, C, H, W), N > 0"
        )
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise UserError(f"{where} labels: found {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of (N,)")
    if len(images) != len(labels):
        raise UserError(f"{where}: found {len(labels)} labels for {len(images)} images, expected as many of each")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"{where} labels: found values {low} … {high}, expected 0 … {classes - 1}")
