"""What makes one task's images out of a data set's: permuting pixels, rotating, normalising."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from ong.errors import UserError
from ong.streams.images import ImageDataset

__all__ = ["Normalisation", "permute_pixels", "pixel_permutations", "rotate"]


class Normalisation:
    """Map grey levels to (x − μ)/σ, with μ and σ the mean and standard deviation of the training pixels.

    Both are scalars, and exact, as they come from the histogram of the 256 levels; σ divides by the number of
    pixels.

    Attributes:
        mean: μ, in grey levels 0 … 255.
        std: σ, in grey levels.

    Raises:
        UserError: All training pixels are equal, so that σ = 0.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        counts = torch.bincount(dataset.train_images.flatten(), minlength=256).double()
        levels = torch.arange(256, dtype=torch.float64)
        share = counts / counts.sum()
        self.mean = float(share @ levels)
        self.std = float(share @ (levels - self.mean) ** 2) ** 0.5
        if self.std == 0:
            raise UserError(f"data set '{dataset.name}': every training pixel is {self.mean:g}; nothing can be learnt")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return normalised images.

        Args:
            images: Grey levels 0 … 255, shape (N, H, W), any dtype.

        Returns:
            float32, shape (N, 1, H, W).
        """
        normalised: torch.Tensor = (images.float() - self.mean) / self.std
        return normalised.unsqueeze(1)


def pixel_permutations(pixels: int, tasks: int, seed: int, *, first_identity: bool = True) -> list[torch.Tensor]:
    """Draw one permutation of the pixels for each task.

    Task t's permutation depends on ``seed`` and t only, not on ``tasks`` or ``first_identity``.

    Args:
        pixels: How many pixels an image has.
        tasks: How many permutations to draw.
        seed: Seed of the generator.
        first_identity: Leave task 0 unpermuted.

    Returns:
        ``tasks`` int64 tensors of shape (pixels,), each holding 0 … pixels − 1 once.
    """
    generator = torch.Generator().manual_seed(seed)
    permutations = [torch.randperm(pixels, generator=generator) for _ in range(tasks)]
    if first_identity:
        permutations[0] = torch.arange(pixels)
    return permutations


def permute_pixels(images: torch.Tensor, permutation: torch.Tensor) -> torch.Tensor:
    """Return images whose pixel i, in row-major order, is pixel ``permutation[i]`` of the image given.

    Args:
        images: Shape (N, H, W).
        permutation: Shape (H·W,).

    Returns:
        Same shape and dtype as ``images``.
    """
    return images.flatten(1)[:, permutation].view_as(images)


def rotate(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate images counter-clockwise about their centre, with bilinear interpolation, to whole grey levels.

    A rotated image is bytes again, as an image file would hold it. Beyond the edge lies background, 0. The whole batch
    is resampled at once: the images are the channels of a single image, so the sampling grid is made once.
    (``torchvision.transforms.functional.rotate`` with a fill value attenuates the pixels along the edge twice, which is
    why it is not used.)

    Args:
        images: Grey levels, shape (N, S, S), any dtype.
        degrees: The angle.

    Returns:
        uint8, shape (N, S, S). Multiples of 360° return the grey levels unchanged.

    Raises:
        UserError: The images are not square.
    """
    height, width = images.shape[1:]
    if height != width:
        raise UserError(f"rotation needs square images, found {height}×{width}")
    if degrees % 360 == 0:
        return images.to(torch.uint8)
    pixels = images.float()
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=torch.float64)
    grid = functional.affine_grid(matrix, [1, 1, height, width], align_corners=False).to(pixels)
    sampled = functional.grid_sample(
        pixels.unsqueeze(0), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return sampled.squeeze(0).round().to(torch.uint8)
