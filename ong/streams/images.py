"""A data set of grey images: what every stream is made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from ong.errors import UserError

__all__ = ["ImageDataset"]

_HELD_OUT_SEED = 6


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """Labelled grey images, divided into a training and a test part.

    Attributes:
        name: The name under which the data set is known.
        train_images: uint8, shape (N, H, W); 0 is background, 255 ink.
        train_labels: int64, shape (N,); values in 0 … classes − 1.
        test_images: uint8, shape (M, H, W).
        test_labels: int64, shape (M,).
        classes: How many classes there are.
        source: Where the data were read, for messages and records.

    Raises:
        UserError: The tensors contradict each other or the description above.
    """

    name: str
    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    classes: int
    source: str

    def __post_init__(self) -> None:
        _check_part(f"{self.source}: train", self.train_images, self.train_labels, self.classes)
        _check_part(f"{self.source}: test", self.test_images, self.test_labels, self.classes)
        train, test = tuple(self.train_images.shape[1:]), tuple(self.test_images.shape[1:])
        if train != test:
            raise UserError(f"{self.source}: test images have size {test}, expected {train} as the training images")

    def padded(self, by: int) -> ImageDataset:
        """Return the images with ``by`` rows and columns of background on every side: 28 × 28 and 2 make 32 × 32."""
        if not by:
            return self
        train, test = (F.pad(images, (by, by, by, by)) for images in (self.train_images, self.test_images))
        return replace(self, train_images=train, test_images=test)

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


def _check_part(where: str, images: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
    """Raise ``UserError`` unless ``images`` and ``labels`` fit each other."""
    if images.dtype != torch.uint8 or images.dim() != 3 or images.numel() == 0:
        raise UserError(
            f"{where} images: found {images.dtype} of shape {tuple(images.shape)}, expected uint8 of (N, H, W), N > 0"
        )
    if labels.dtype != torch.int64 or labels.dim() != 1:
        raise UserError(f"{where} labels: found {labels.dtype} of shape {tuple(labels.shape)}, expected int64 of (N,)")
    if len(images) != len(labels):
        raise UserError(f"{where}: found {len(labels)} labels for {len(images)} images, expected as many of each")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise UserError(f"{where} labels: found values {low} … {high}, expected 0 … {classes - 1}")
