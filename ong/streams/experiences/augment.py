"""Random changes of training images, a batch at a time, that a resumed run repeats to the bit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from avalanche.training.plugins import SupervisedPlugin

__all__ = ["AUGMENTATIONS", "Augmentation"]


def _crop(height: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2

    crop: Callable[[torch.Tensor], torch.Tensor] = v2.RandomCrop((height, width), padding=max(1, height // 8))
    return crop


def _flip(height: int, width: int) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import v2

    flip: Callable[[torch.Tensor], torch.Tensor] = v2.RandomHorizontalFlip()
    return flip


AUGMENTATIONS: dict[str, Callable[[int, int], Callable[[torch.Tensor], torch.Tensor]]] = {"crop": _crop, "flip": _flip}
"""By name, from height and width to a transform: a crop after padding by an eighth (4 of 32), a horizontal flip."""


class Augmentation(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Changes each image of each training batch at random, whatever loader the batch comes from.

    The draws depend on ``seed``, the experience's index, the epoch and the batch's number in it, so that every strategy
    sees the same changes of a batch, and the global generator is left as it was. Put it first among the plugins.
    Evaluation sees the images as they are. So do methods that take a task's examples by themselves (directions,
    Fishers), and stores that copy from the task's data set; what they replay through a loader is changed each time.

    The images are normalised: their mean is 0, which is also what a crop puts beyond the edge. Geometric transforms of
    torchvision suit that; those of colours expect 0 … 1 and do not.

    Args:
        transforms: From an image, float32 (C, H, W), to one of that shape; applied one after the other. They draw from
            torch's global generator.
        seed: Non-negative seed of the draws.
    """

    def __init__(self, transforms: Sequence[Callable[[torch.Tensor], torch.Tensor]], *, seed: int = 0) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected at least 0")
        self.transforms = tuple(transforms)
        self.seed = seed

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Change the batch."""
        clock = strategy.clock
        place = (strategy.experience.current_experience, clock.train_exp_epochs, clock.train_epoch_iterations)
        seed = int(np.random.SeedSequence([self.seed, *place]).generate_state(1, np.uint64)[0])
        before = torch.default_generator.get_state()
        try:
            torch.default_generator.manual_seed(seed)
            strategy.mbatch[0] = torch.stack([self._changed(image) for image in strategy.mb_x])
        finally:
            torch.default_generator.set_state(before)

    def _changed(self, image: torch.Tensor) -> torch.Tensor:
        for transform in self.transforms:
            image = transform(image)
        return image
