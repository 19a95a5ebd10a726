"""Autoencoder networks: the paper's, and the classic one of the wider literature."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from ong.errors import UnknownNameError, UserError

__all__ = ["NETS", "make_net", "widths_of"]

NETS: dict[str, tuple[int, ...]] = {
    "paper": (784, 400, 200, 100, 50, 100, 200, 400, 784),
    "classic": (784, 1000, 500, 250, 30, 250, 500, 1000, 784),
}
"""Widths from inputs to outputs: the paper's, and Hinton and Salakhutdinov's (Science 2006)."""


def widths_of(net: str | Sequence[int]) -> tuple[int, ...]:
    """Return the widths of ``paper`` or ``classic``, or a list of widths checked.

    Raises:
        UnknownNameError: no such net.
        UserError: widths that describe no autoencoder.
    """
    if isinstance(net, str):
        if net not in NETS:
            raise UnknownNameError("autoencoder", net, NETS)
        return NETS[net]
    widths = tuple(net)
    if len(widths) < 3 or widths[0] != widths[-1] or any(w < 1 for w in widths):
        raise UserError(f"an autoencoder has at least three widths > 0 and as many outputs as inputs; got {widths}")
    return widths


def make_net(
    net: str | Sequence[int], *, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> nn.Sequential:
    """Return a network of tanh layers with a linear last one; weights N(0, 1/fan_in), biases 0.

    Args:
        net: a key of :data:`NETS`, or widths.
        generator: draws the weights; its device is the network's.
        dtype: of the parameters.

    Raises:
        UserError: as :func:`widths_of`.
    """
    widths = widths_of(net)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layer = nn.Linear(fan_in, fan_out, device=generator.device, dtype=dtype)
        with torch.no_grad():
            drawn = torch.randn(fan_out, fan_in, generator=generator, device=generator.device, dtype=dtype)
            layer.weight.copy_(drawn / fan_in**0.5)
            layer.bias.zero_()
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers[:-1])
