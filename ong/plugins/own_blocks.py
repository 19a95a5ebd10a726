"""A model's blocks as plugins take them: known layers, used as such, that what is kept of past tasks still fits."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature import Block, Unsupported, UnsupportedLayerError, evaluating, find_blocks, record
from ong.errors import UserError
from ong.plugins.examples import forward_of, probe_batch

__all__ = ["Columns", "check_columns", "columns_of", "own_blocks"]

Columns = dict[str, tuple[int, int]]


def own_blocks(strategy: Any, unsupported: Unsupported) -> dict[str, Block]:
    """Return :func:`ong.curvature.find_blocks` of the model, of layers whose gradients are those of their own forward.

    On a few examples Σ_n G_n, out of the layers' inputs and back-propagated outputs, is compared with autograd. They
    differ in a layer with a ``forward`` of its own, whose weights other code reads, or which mixes examples.

    Raises:
        UnsupportedLayerError: such a layer and ``unsupported="error"``; ``"ignore"`` leaves it out with a warning.
    """
    blocks = find_blocks(strategy.model, unsupported)
    other = _of_another_kind(strategy, blocks)
    for name in other:
        message = (
            f"the gradient of module '{name}' of type {type(blocks[name].module).__name__} is not that of such a layer "
            "on its inputs: it has a forward of its own, other code reads its weights, or it mixes examples"
        )
        if unsupported == "error":
            raise UnsupportedLayerError(
                f"{message}; freeze it, or pass unsupported='ignore' to leave its gradient as it is"
            )
        warnings.warn(f"{message}: its plain gradient is used", stacklevel=2)
    return {name: block for name, block in blocks.items() if name not in other}


def _of_another_kind(strategy: Any, blocks: Mapping[str, Block]) -> list[str]:
    batch = probe_batch(strategy)
    with evaluating(strategy.model), record(blocks) as tape:
        outputs = forward_of(strategy, batch)
        if outputs.ndim != 2 or not outputs.requires_grad:
            return []
        cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
        factors = tape.factors(outputs, cotangents)
        parameters = [parameter for block in blocks.values() for parameter in block.parameters]
        gradients = iter(torch.autograd.grad(outputs, parameters, cotangents, allow_unused=True))
    other = []
    for name, block in blocks.items():
        parts = [_dense(next(gradients), parameter) for parameter in block.parameters]
        expected = block.matrix(parts)
        found, size = torch.zeros_like(expected), torch.linalg.vector_norm(expected)
        if name in factors:
            part = factors[name]
            found = torch.einsum("ntr,ntc->rc", part.outputs, part.inputs)
            size = torch.linalg.vector_norm(torch.einsum("ntr,ntc->rc", part.outputs.abs(), part.inputs.abs()))
        if torch.linalg.vector_norm(found - expected) > torch.finfo(parts[0].dtype).eps ** 0.5 * size:
            other.append(name)
    return other


def _dense(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter)
    return gradient.to_dense() if gradient.is_sparse else gradient


def columns_of(blocks: Mapping[str, Block]) -> Columns:
    """Return how many columns of each block's matrix are the weight's and the bias's."""
    return {
        name: tuple(0 if p is None else p.numel() // block.rows for p in (block.weight, block.bias))  # type: ignore[misc]
        for name, block in blocks.items()
    }


def check_columns(before: Columns, model: nn.Module, blocks: Mapping[str, Block]) -> None:
    """See that layers of past tasks are there, and have gained columns at their end only, where zeros stand for them.

    Raises:
        UserError: a layer that is gone, has lost columns, or whose inputs have changed in number beside a bias.
    """
    gone = sorted(before.keys() - {name for name, _ in model.named_modules()})
    if gone:
        raise UserError(f"past tasks left something for layers that the model no longer has: {', '.join(gone)}")
    now = columns_of(blocks)
    for name in before.keys() & now.keys():
        (weight, bias), (new_weight, new_bias) = before[name], now[name]
        if new_weight < weight or new_bias < bias or (bias and new_weight != weight):
            raise UserError(
                f"layer '{name}' had {weight} trainable columns of weights and {bias} of biases in a past task and has "
                f"{new_weight} and {new_bias} now, which what is kept of that task does not fit; freeze a layer as a "
                "whole, and give it new outputs rather than new inputs"
            )
