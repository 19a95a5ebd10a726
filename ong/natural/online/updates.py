"""Gradients and updates of a model's blocks, as matrices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from ong.curvature.blocks import Block, Vector

__all__ = ["gradient_of", "move", "with_momentum"]


def gradient_of(loss: Tensor, blocks: Mapping[str, Block], names: Collection[str]) -> Vector:
    """Return the gradient of a scalar, a matrix for each named block that took part in it.

    Args:
        loss: the scalar; its graph is freed.
        blocks: the model's blocks.
        names: those wanted.
    """
    wanted = {name: block for name, block in blocks.items() if name in names}
    parameters = [p for block in wanted.values() for p in block.parameters]
    parts = iter(torch.autograd.grad(loss, parameters, allow_unused=True))
    gradient: Vector = {}
    for name, block in wanted.items():
        own = [next(parts) for _ in block.parameters]
        if any(part is not None for part in own):
            pairs = zip(own, block.parameters, strict=True)
            gradient[name] = block.matrix([torch.zeros_like(p) if g is None else g for g, p in pairs])
    return gradient


def with_momentum(
    direction: Vector,
    blocks: Mapping[str, Block],
    state: MutableMapping[Tensor, dict[str, Any]],
    momentum: float,
) -> Vector:
    """Return u ← μu + d for every block; u is kept in the state of the block's first parameter."""
    if not momentum:
        return direction
    update: Vector = {}
    for name, matrix in direction.items():
        own = state[blocks[name].parameters[0]]
        before = own.get("momentum_buffer")
        update[name] = own["momentum_buffer"] = matrix if before is None else matrix + momentum * before
    return update


def move(blocks: Mapping[str, Block], update: Vector, rate: float) -> None:
    """Add rate · u to the weights, in place."""
    for name, matrix in update.items():
        block, start = blocks[name], 0
        for parameter in block.parameters:
            width = parameter.numel() // block.rows
            part = matrix[:, start : start + width].reshape(parameter.shape)
            parameter.add_(part.to(parameter.dtype), alpha=rate)
            start += width
