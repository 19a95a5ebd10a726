"""What the layers of a network are fed: second moments of their inputs, bias included."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature.batches import Batch, Forward, logits_of, map_batch
from ong.curvature.blocks import Block, evaluating, named_layouts
from ong.curvature.layers import Call, UnsupportedLayerError, factors_of_call
from ong.curvature.positions import factor_numbers, in_pieces, positions_of
from ong.curvature.precision import double
from ong.errors import NotFiniteError

__all__ = ["affine_blocks", "affine_layers", "input_covariances"]


def affine_blocks(blocks: Mapping[str, Block], *, warn: bool = False) -> dict[str, Block]:
    """Return the blocks whose output is W a, a the inputs alone: ``Linear``, convolutions of one group, attention.

    All whose layout is affine (:class:`ong.curvature.Layout`).

    Args:
        blocks: a model's blocks.
        warn: name the others in a warning, as nothing protects them.

    Raises:
        UnsupportedLayerError: none is left.
    """
    affine = {name: block for name, block in blocks.items() if block.layout.affine}
    others = [name for name in blocks if name not in affine]
    if not affine:
        raise UnsupportedLayerError(
            "the model has no Linear, Conv1d or Conv2d layer, or one like them, whose inputs could be protected"
        )
    if others and warn:
        named = ", ".join(f"'{name}'" for name in others[:5]) + (f" and {len(others) - 5} more" if others[5:] else "")
        warnings.warn(
            f"only Linear, Conv1d and Conv2d layers and their like have inputs to protect; {named} keep their plain "
            "gradient and move old outputs: freeze them after the first task to keep the promise",
            stacklevel=2,
        )
    return affine


def affine_layers(model: nn.Module) -> list[str]:
    """Return the names of a model's blocks that :func:`affine_blocks` keeps where they are trained."""
    return [name for _, _, layouts in named_layouts(model) for name, layout in layouts.items() if layout.affine]


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
    layers: dict[nn.Module, list[Block]] = {}
    for block in blocks.values():
        if block.module is not None:
            layers.setdefault(block.module, []).append(block)

    def add(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        out = output[0] if isinstance(output, tuple) else output
        if not out.numel():  # an expert that nothing was sent to
            return
        args, kwargs = map_batch(lambda t: t.detach().to(out) if t.is_floating_point() else t, [list(args), kwargs])
        found = factors_of_call(module, Call(tuple(args), kwargs, torch.zeros_like(out)))
        for block in layers[module]:
            parts = found[block.layout.weight]
            columns = [(parts.weight_inputs, block.weight), (parts.bias_inputs, block.bias)]
            used = [part for part, parameter in columns if part is not None and parameter is not None]
            a = double(torch.cat(used, dim=2).flatten(0, 1))
            total, count = sums.get(block.name, (a.new_zeros(a.shape[1], a.shape[1]), 0))
            sums[block.name] = (total + a.T @ a, count + len(a))

    run = forward if forward is not None else (lambda batch: logits_of(model, batch))
    with evaluating(model):
        numbers = factor_numbers(blocks, positions_of(blocks, run, batches[0]))
    handles = [module.register_forward_hook(add, with_kwargs=True) for module in layers]
    try:
        with evaluating(model), torch.no_grad():
            for batch in in_pieces(batches, numbers):
                run(batch)
    finally:
        for handle in handles:
            handle.remove()
    for name, (total, _) in sums.items():
        if not total.isfinite().all():
            raise NotFiniteError(
                f"the inputs of layer '{name}' are not finite: the weights or the inputs have diverged"
            )
    return {name: total / count for name, (total, count) in sums.items()}
