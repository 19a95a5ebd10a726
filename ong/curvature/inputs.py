"""What the layers of a network are fed: second moments of their inputs, bias included."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature.batches import Batch, Forward, logits_of
from ong.curvature.blocks import Block, evaluating
from ong.curvature.layers import UnsupportedLayerError, layer_factors
from ong.curvature.precision import double
from ong.errors import NotFiniteError

__all__ = ["affine_blocks", "affine_layers", "input_covariances"]


def affine_blocks(blocks: Mapping[str, Block], *, warn: bool = False) -> dict[str, Block]:
    """Return the blocks whose output is W a, a the inputs alone: ``Linear``, ``Conv1d`` and ``Conv2d`` of one group.

    Args:
        blocks: a model's blocks.
        warn: name the others in a warning, as nothing protects them.

    Raises:
        UnsupportedLayerError: none is left.
    """
    affine = {name: block for name, block in blocks.items() if _is_affine(block.module)}
    others = [name for name in blocks if name not in affine]
    if not affine:
        raise UnsupportedLayerError("the model has no Linear, Conv1d or Conv2d layer whose inputs could be protected")
    if others and warn:
        named = ", ".join(f"'{name}'" for name in others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
        warnings.warn(
            f"only Linear, Conv1d and Conv2d layers have inputs to protect; {named} keep their plain gradient "
            "and move old outputs: freeze them after the first task to keep the promise",
            stacklevel=2,
        )
    return affine


def affine_layers(model: nn.Module) -> list[str]:
    """Return the names of a model's layers that :func:`affine_blocks` keeps where they are trained."""
    return [name for name, module in model.named_modules() if _is_affine(module)]


def _is_affine(module: nn.Module | None) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv1d | nn.Conv2d) and module.groups == 1)


def input_covariances(
    model: nn.Module, batches: Sequence[Batch], blocks: Mapping[str, Block], *, forward: Forward | None = None
) -> dict[str, Tensor]:
    """Return A = E[a aᵀ] of each block, ``[columns, columns]`` float64, the mean over examples and positions.

    a is what the block's matrix is multiplied with: the layer's input (the patches of a convolution), with 1 appended
    for the bias. One forward a batch, in eval mode; blocks that took no part in it are absent.

    Raises:
        NotFiniteError: inputs that are not finite.
    """
    sums: dict[str, tuple[Tensor, int]] = {}

    def add(name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Tensor], None]:
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            inputs = args[0] if args else next(iter(kwargs.values()))
            parts = layer_factors(module, inputs.detach().to(output), torch.zeros_like(output))
            used = (blocks[name].weight, blocks[name].bias)
            columns = [part for part, parameter in zip(parts[:2], used, strict=True) if parameter is not None]
            a = double(torch.cat(columns, dim=2).flatten(0, 1))
            total, count = sums[name] if name in sums else (a.new_zeros(a.shape[1], a.shape[1]), 0)
            sums[name] = (total + a.T @ a, count + len(a))

        return hook

    handles = [
        block.module.register_forward_hook(add(name), with_kwargs=True)
        for name, block in blocks.items()
        if block.module is not None
    ]
    try:
        with evaluating(model), torch.no_grad():
            for batch in batches:
                forward(batch) if forward is not None else logits_of(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, (total, _) in sums.items():
        if not total.isfinite().all():
            raise NotFiniteError(
                f"the inputs of layer '{name}' are not finite: the weights or the inputs have diverged"
            )
    return {name: total / count for name, (total, count) in sums.items()}
