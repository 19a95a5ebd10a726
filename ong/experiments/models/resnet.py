"""Residual networks for small images, of torchvision's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock

from ong.errors import UserError
from ong.experiments.models.networks import Network

__all__ = ["resnet18", "slim_resnet18"]


def resnet18(
    shape: Sequence[int], classes: int, *, channels: int = 64, blocks: Sequence[int] = (2, 2, 2, 2)
) -> Network:
    """Return ResNet-18 with a 3×3 convolution of stride 1 and no pooling at its start, as is usual for CIFAR.

    Source: He et al., "Deep Residual Learning for Image Recognition", 2016, table 1. 11.2 M parameters for 10 classes.
    Weights are drawn as torch's layers draw theirs.

    Args:
        shape: channels, height and width of the images.
        classes: number of outputs.
        channels: of the first stage; each further stage has twice as many, at half the height and width.
        blocks: number of residual blocks, of two convolutions each, in each stage.

    Raises:
        UserError: a number below 1.
    """
    if channels < 1 or not blocks or min(blocks) < 1:
        raise UserError(f"model resnet: channels and blocks must be at least 1, got {channels} and {list(blocks)}")
    stem = nn.Conv2d(shape[0], channels, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(channels), nn.ReLU()]
    width = channels
    for stage, count in enumerate(blocks):
        layers.append(_stage(width, channels * 2**stage, count, stride=1 if stage == 0 else 2))
        width = channels * 2**stage
    return Network(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


def slim_resnet18(
    shape: Sequence[int], classes: int, *, channels: int = 20, blocks: Sequence[int] = (2, 2, 2, 2)
) -> Network:
    """Return the ResNet-18 of a third of the width that continual learning uses: :func:`resnet18`, 20 channels.

    Source: Lopez-Paz and Ranzato, "Gradient Episodic Memory", 2017, section 5.1. 1.1 M parameters for 10 classes.
    """
    return resnet18(shape, classes, channels=channels, blocks=blocks)


def _stage(inputs: int, outputs: int, count: int, stride: int) -> nn.Sequential:
    """Return residual blocks, the first of which changes the size; its shortcut does too."""
    shortcut = None
    if stride != 1 or inputs != outputs:
        shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    first = BasicBlock(inputs, outputs, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(count - 1)))
