"""Gradients and updates of a model's blocks, as matrices."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature.blocks import Block, Vector, find_blocks
from ong.curvature.layers import UnsupportedLayerError
from ong.errors import UserError

__all__ = ["check_known", "gradient_of", "layers_of", "move", "restore", "with_momentum"]


def layers_of(model: nn.Module) -> dict[str, Block]:
    """Return the blocks of a model, all of them layers.

    Raises:
        UserError: no model, or one without trainable parameters.
        UnsupportedLayerError: trainable parameters that are no supported layer's.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"NaturalGradient takes the model itself, not its parameters, got {type(model).__name__}")
    blocks = find_blocks(model)
    others = [name for name, block in blocks.items() if block.module is None]
    if others:
        raise UnsupportedLayerError(
            f"NaturalGradient has factors of layers only, and these parameters are none of a supported layer's: "
            f"{', '.join(others[:5])}; freeze them (requires_grad_(False))"
        )
    return blocks


def gradient_of(loss: Tensor, blocks: Mapping[str, Block]) -> Vector:
    """Return the gradient of a scalar, a matrix for each block that took part in it; its graph is freed.

    Raises:
        UserError: a layer that has been frozen in part since the blocks were found; one frozen as a whole is left out.
    """
    trained = {name: block for name, block in blocks.items() if any(p.requires_grad for p in block.parameters)}
    for name, block in trained.items():
        if not all(p.requires_grad for p in block.parameters):
            raise UserError(f"layer '{name}' is frozen in part; freeze a layer as a whole, or make a new optimizer")
    parameters = [p for block in trained.values() for p in block.parameters]
    parts = iter(torch.autograd.grad(loss, parameters, allow_unused=True)) if parameters else iter(())
    gradient: Vector = {}
    for name, block in trained.items():
        own = [next(parts) for _ in block.parameters]
        if any(part is not None for part in own):
            pairs = zip(own, block.parameters, strict=True)
            gradient[name] = block.matrix([torch.zeros_like(p) if g is None else g for g, p in pairs])
    return gradient


def check_known(gradient: Vector, curvature: Container[str]) -> None:
    """Take blocks out of a gradient that are 0 and have no curvature, as they took no part.

    Raises:
        UserError: one of them is not 0.
    """
    for name in [name for name in gradient if name not in curvature]:
        if gradient.pop(name).any():
            raise UserError(
                f"layer '{name}' has a gradient although its module was not called: other code reads its weights, "
                "so its curvature is not known; call the module, or freeze it"
            )


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
        block = blocks[name]
        for parameter, part in zip(block.parameters, block.split(matrix), strict=True):
            parameter.add_(part, alpha=rate)


def restore(parameters: Iterable[Tensor], kept: Iterable[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
    """Put weights back in place, and let momentum start anew."""
    for parameter, before in zip(parameters, kept, strict=True):
        parameter.copy_(before)
    for own in state.values():
        own.pop("momentum_buffer", None)
