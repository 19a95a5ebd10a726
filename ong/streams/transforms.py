"""What makes one task's images out of a data set's: permuting pixels, rotating, normalising."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from ong.errors import UserError
from ong.streams.images import ImageDataset
from ong.streams.stored import StoredImages, chunks, decoded

__all__ = ["Normalisation", "permute_pixels", "pixel_permutations", "rotate"]


class Normalisation:
    """Map levels to (x − μ)/σ, with μ and σ the mean and standard deviation of the training pixels of each channel.

    They are exact, as they come from the histogram of the 256 levels; σ divides by the number of pixels. A channel
    without contrast is only centred.

    Attributes:
        mean: μ, float64 (C,), in levels 0 … 255.
        std: σ, float64 (C,), in levels.

    Raises:
        UserError: All training pixels are equal, so that σ = 0.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        counts = torch.zeros(dataset.channels, 256, dtype=torch.float64)
        for images in chunks(dataset.train_images):
            for channel, levels in enumerate(_with_channels(images).unbind(1)):
                counts[channel] += torch.bincount(levels.flatten(), minlength=256)
        levels = torch.arange(256, dtype=torch.float64)
        shares = counts / counts.sum(1, keepdim=True)
        self.mean = torch.stack([share @ levels for share in shares])
        pairs = zip(shares, self.mean, strict=True)
        self.std = torch.stack([share @ (levels - mean) ** 2 for share, mean in pairs]) ** 0.5
        if not self.std.any():
            found = ", ".join(f"{mean:g}" for mean in self.mean)
            raise UserError(f"data set '{dataset.name}': every training pixel is {found}; nothing can be learnt")
        self.std[self.std == 0] = 1

    def __call__(self, images: torch.Tensor | StoredImages) -> torch.Tensor:
        """Return normalised images.

        Args:
            images: Levels 0 … 255, shape (N, H, W) or (N, C, H, W), any dtype.

        Returns:
            float32, shape (N, C, H, W).
        """
        levels = _with_channels(decoded(images)).float()
        mean, std = (values.float()[:, None, None] for values in (self.mean, self.std))
        return (levels - mean) / std


def _with_channels(images: torch.Tensor) -> torch.Tensor:
    return images if images.ndim == 4 else images.unsqueeze(1)


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
        images: Shape (…, H, W); the channels of a pixel stay together.
        permutation: Shape (H·W,).

    Returns:
        Same shape and dtype as ``images``.
    """
    return images.flatten(-2)[..., permutation].view_as(images)


def rotate(images: torch.Tensor, degrees: float) -> torch.Tensor:
    """Rotate images counter-clockwise about their centre, with bilinear interpolation, to whole levels.

    A rotated image is bytes again, as an image file would hold it. Beyond the edge lies background, 0. The whole batch
    is resampled at once: the images are the channels of a single image, so the sampling grid is made once.
    (``torchvision.transforms.functional.rotate`` with a fill value attenuates the pixels along the edge twice, which is
    why it is not used.)

    Args:
        images: Levels, shape (…, S, S), any dtype.
        degrees: The angle.

    Returns:
        uint8, the same shape. Multiples of 360° return the levels unchanged.

    Raises:
        UserError: The images are not square.
    """
    height, width = images.shape[-2:]
    if height != width:
        raise UserError(f"rotation needs square images, found {height}×{width}")
    if degrees % 360 == 0:
        return images.to(torch.uint8)
    pixels = images.reshape(1, -1, height, width).float()
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    matrix = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]], dtype=torch.float64)
    grid = functional.affine_grid(matrix, [1, 1, height, width], align_corners=False).to(pixels)
    sampled = functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.view(images.shape).round().to(torch.uint8)
