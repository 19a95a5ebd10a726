"""A model's blocks whose gradients are what their layers' inputs and outputs say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ong.curvature.blocks import Block, Unsupported, evaluating, find_blocks
from ong.curvature.factors import record
from ong.curvature.layers import UnsupportedLayerError

__all__ = ["PROBED", "own_blocks"]

PROBED = 8  # examples that tell


def own_blocks(model: nn.Module, run: Callable[[], Tensor], unsupported: Unsupported = "error") -> dict[str, Block]:
    """Return :func:`ong.curvature.find_blocks` of the model, of layers whose gradients are those of their own forward.

    On a few examples Σ_n G_n, out of the layers' inputs and back-propagated outputs, is compared with autograd. They
    differ in a layer with a ``forward`` of its own, whose weights other code reads, or which mixes examples.

    Args:
        model: the network.
        run: returns its outputs for a few examples.
        unsupported: ``"error"``, or ``"ignore"`` to leave such a layer out with a warning.

    Raises:
        UnsupportedLayerError: such a layer and ``unsupported="error"``.
    """
    blocks = find_blocks(model, unsupported)
    other = _of_another_kind(model, blocks, run)
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


def _of_another_kind(model: nn.Module, blocks: Mapping[str, Block], run: Callable[[], Tensor]) -> list[str]:
    with evaluating(model), record(blocks) as tape:
        outputs = run()
        if outputs.ndim != 2 or not outputs.requires_grad:
            return []
        cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
        factors = tape.factors(outputs, cotangents)
        parameters = [parameter for block in blocks.values() for parameter in block.parameters]
        gradients = iter(torch.autograd.grad(outputs, parameters, cotangents, allow_unused=True))
    other = []
    for name, block in blocks.items():
        parts = [_dense(next(gradients), parameter) for parameter in block.parameters]
        if block.is_held:  # by a plugin, which has looked, and the gradients are in other coordinates
            continue
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
