"""Networks of layers one after the other: the multilayer perceptron and the plain convolutional network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from avalanche.models import BaseModel
from torch import Tensor, nn

from ong.errors import UserError

__all__ = ["Network", "cnn", "mlp"]


class Network(nn.Sequential, BaseModel):  # type: ignore[misc]
    """Layers one after the other, the last of which is linear; the others make features."""

    def get_features(self, x: Tensor) -> Tensor:
        """Return what the last layer is given."""
        features: Tensor = self[:-1](x)
        return features


def mlp(shape: Sequence[int], classes: int, *, hidden: Sequence[int] = (100, 100), bias: bool = True) -> Network:
    """Return a ReLU network on flattened images, with biases everywhere or nowhere.

    Raises:
        UserError: a width below 1.
    """
    if any(width < 1 for width in hidden):
        raise UserError(f"model mlp: hidden widths must be at least 1, got {list(hidden)}")
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out, bias=bias), nn.ReLU()]
    return Network(*layers, nn.Linear(widths[-1], classes, bias=bias))


def cnn(
    shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (8, 16),
    kernel: int = 3,
    pool: int = 2,
    hidden: Sequence[int] = (),
) -> Network:
    """Return a ReLU network of convolutions, each with a max pooling after it, and linear layers; biases everywhere.

    Args:
        shape: channels, height and width of the images.
        classes: number of outputs.
        channels: output channels of each convolution, which keeps the images' size.
        kernel: side of the convolutions' kernels, odd.
        pool: factor by which each pooling shrinks height and width.
        hidden: widths of linear layers before the last.

    Raises:
        UserError: a number out of range, or images too small for so many poolings.
    """
    if any(width < 1 for width in (*channels, *hidden)) or kernel < 1 or kernel % 2 == 0 or pool < 1:
        raise UserError(
            "model cnn: channels, hidden and pool must be at least 1 and kernel odd, got "
            f"channels={list(channels)}, hidden={list(hidden)}, pool={pool}, kernel={kernel}"
        )
    depth, height, width = shape
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(depth, outputs, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(pool)]
        depth, height, width = outputs, height // pool, width // pool
    if not height * width:
        raise UserError(
            f"model cnn: {len(channels)} poolings by {pool} leave nothing of images of {shape[1]} × {shape[2]}"
        )
    return Network(*layers, *mlp((depth, height, width), classes, hidden=hidden))
