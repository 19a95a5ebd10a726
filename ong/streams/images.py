"""A data set of grey images: what every stream is made from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ong.errors import UserError

__all__ = ["ImageDataset"]


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
