"""A model's blocks, each with per-example gradients that are those of autograd."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from ong.curvature.batches import Batch, Forward, batch_size, checked_logits, select
from ong.curvature.blocks import Block, dense_gradient, evaluating, find_blocks
from ong.curvature.factors import Tape, record
from ong.curvature.layers import UnsupportedLayerError
from ong.errors import NotFiniteError, UserError

__all__ = ["PROBED", "cover"]

PROBED = 8  # examples that tell
_FEWER = 3  # of them once more, without the others


def cover(
    model: nn.Module, run: Forward, batch: Batch, *, among: Collection[nn.Parameter] | None = None
) -> dict[str, Block]:
    """Return blocks that cover every trainable parameter.

    On a few examples Σ_n G_n of each layer, out of its inputs and back-propagated outputs, is compared with autograd,
    with cotangents for half of the examples only, so that a layer which spreads an example over others shows too. A
    layer that fails has a ``forward`` of its own, weights that other code reads, or inputs without examples first: its
    parameters become blocks of their own.

    Args:
        model: the network.
        run: from a batch to logits ``[N, C]``.
        batch: examples of the task; eight of them are looked at.
        among: the parameters that count, an optimizer's; all by default.

    Raises:
        UnsupportedLayerError: the output for an example depends on the other examples of its batch, in eval mode.
        NotFiniteError: weights or outputs that are not finite.
        UserError: outputs that are not ``[N, C]``.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise NotFiniteError(f"the weights '{name}' are not finite: training has diverged")
    batch = select(batch, slice(0, PROBED))
    with evaluating(model):
        blocks = find_blocks(model, among=among)
        layers = {name: block for name, block in blocks.items() if block.module is not None}
        with record(layers) as tape:
            outputs = checked_logits(run(batch), batch)
        if not outputs.requires_grad:
            raise UserError(
                "the outputs do not depend on the parameters that are trained; check logits=, which takes a batch and "
                "returns the model's outputs, not detached and without argmax"
            )
        if not outputs.isfinite().all():
            raise NotFiniteError("the outputs are not finite: weights or inputs have diverged")
        if batch_size(batch) > 1:
            fewer = select(batch, slice(0, min(_FEWER, batch_size(batch) - 1)))
            with torch.no_grad():
                apart = checked_logits(run(fewer), fewer)
            _check_apart(model, outputs[: len(apart)].detach(), apart)
        others = _of_another_kind(layers, tape, outputs)
    return find_blocks(model, among=among, apart=others) if others else blocks


def _check_apart(model: nn.Module, together: Tensor, apart: Tensor) -> None:
    rounding = torch.finfo(together.dtype).eps ** 0.5
    if float((together - apart).abs().max()) > 10 * rounding * float(together.abs().max().clamp_min(1e-30)):
        raise UnsupportedLayerError(
            f"{type(model).__name__} gives an example other outputs when other examples share its batch, in eval mode: "
            "no example has a gradient of its own; give normalisation layers running statistics, and let nothing "
            "be drawn at random in eval mode"
        )


def _of_another_kind(layers: Mapping[str, Block], tape: Tape, outputs: Tensor) -> list[str]:
    examples = len(outputs)
    half = max(1, examples // 2)
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    cotangents[half:] = 0
    parameters = [parameter for block in layers.values() for parameter in block.parameters]
    if not parameters:
        return []
    taken = torch.autograd.grad(outputs, parameters, cotangents, retain_graph=True, allow_unused=True)
    gradients = dict(zip(map(id, parameters), taken, strict=True))
    others = []
    for name, block in layers.items():
        parts = [dense_gradient(gradients[id(p)], p) for p in block.parameters]
        alone = Tape({name: block}, {name: tape.uses[name]} if name in tape.uses else {})
        if not _agrees(alone, name, block.matrix(parts), outputs, cotangents, half):
            others.append(name)
    return others


def _agrees(tape: Tape, name: str, expected: Tensor, outputs: Tensor, cotangents: Tensor, half: int) -> bool:
    """Return whether a layer's factors sum up to its gradient, and are zero for examples without a cotangent."""
    try:
        factors = tape.factors(outputs, cotangents).get(name)
    except (ValueError, RuntimeError, IndexError, UnsupportedLayerError):  # a layer fed in another way than its type is
        return False
    if factors is None:
        return not bool(expected.any())
    found = torch.einsum("ntr,ntc->rc", factors.outputs, factors.inputs)
    size = torch.linalg.vector_norm(torch.einsum("ntr,ntc->rc", factors.outputs.abs(), factors.inputs.abs()))
    tolerance = factors.rounding**0.5 * size
    spread = torch.einsum("ntr,ntc->nrc", factors.outputs[half:], factors.inputs[half:])
    return bool(torch.linalg.vector_norm(found - expected) <= tolerance and (spread.abs().sum() <= tolerance))
