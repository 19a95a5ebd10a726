"""A model's blocks, each with per-example gradients that are those of autograd."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from ong.curvature.batches import Batch, Forward, batch_size, checked_logits, select
from ong.curvature.blocks import Block, dense_gradient, evaluating, find_blocks
from ong.curvature.factors import Factors, as_rows
from ong.curvature.layers import UnsupportedLayerError, layouts_of
from ong.curvature.tape import Tape, record
from ong.errors import NotFiniteError, UserError

__all__ = ["PROBED", "cover"]

PROBED = 8  # examples that tell
_FEWER = 3  # of them once more, without the others


def cover(
    model: nn.Module,
    run: Forward,
    batch: Batch,
    *,
    among: Collection[nn.Parameter] | None = None,
    apart: Collection[str] = (),
) -> dict[str, Block]:
    """Return blocks that cover every trainable parameter.

    On a few examples Σ_n G_n of each layer, out of its inputs and back-propagated outputs, is compared with autograd,
    with cotangents for half of the examples only, so that a layer which spreads an example over others shows too. The
    same is seen to for what is one for all examples (class tokens, tables of places), read as a copy an example. A
    layer that fails has a ``forward`` of its own, weights that other code reads, or inputs without examples first: its
    parameters become blocks of their own.

    Args:
        model: the network.
        run: from a batch to logits ``[N, C]``.
        batch: examples of the task; eight of them are looked at.
        among: the parameters that count, an optimizer's; all by default.
        apart: layers whose parameters are to be blocks of their own, as they were in a past task.

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
        blocks, refused = find_blocks(model, among=among, apart=apart), set[str]()
        while (found := _recorded(blocks, run, batch, refused)) is None:
            pass
        tape, outputs = found
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
        others = _of_another_kind(tape, outputs)
    repeated = set(tape.broadcast).difference(others)
    found_blocks = find_blocks(model, among=among, apart=[*apart, *others]) if others else blocks
    return {n: replace(block, broadcast=True) if n in repeated else block for n, block in found_blocks.items()}


def _recorded(blocks: Mapping[str, Block], run: Forward, batch: Batch, refused: set[str]) -> tuple[Tape, Tensor] | None:
    """Return a recorded forward in which what may be is repeated for every example, but for the blocks refused.

    None, with further names refused, where that changes the outputs.
    """
    together = {
        name: replace(block, broadcast=name not in refused)
        for name, block in blocks.items()
        if block.module is not None or (name not in refused and _has_an_axis_of_one(block))
    }
    with record(together, batch_size(batch)) as tape:
        try:
            outputs = checked_logits(run(batch), batch)
        except Exception:
            if not tape.broadcast:
                raise
            outputs = None
    if tape.broadcast:
        with torch.no_grad():
            plain = checked_logits(run(batch), batch)
        if outputs is None or _differ(outputs.detach(), plain):
            refused |= set(tape.broadcast)
            return None
    assert outputs is not None
    return tape, outputs


def _has_an_axis_of_one(block: Block) -> bool:
    shape = block.parameters[0].shape
    return len(shape) > 1 and shape[0] == 1 and not any(layouts_of(module) for module, _ in block.holders)


def _differ(one: Tensor, other: Tensor) -> bool:
    rounding = torch.finfo(one.dtype).eps ** 0.5
    return bool((one - other).abs().max() > 10 * rounding * one.abs().max().clamp_min(1e-30))


def _check_apart(model: nn.Module, together: Tensor, apart: Tensor) -> None:
    if _differ(together, apart):
        raise UnsupportedLayerError(
            f"{type(model).__name__} gives an example other outputs when other examples share its batch, in eval mode: "
            "no example has a gradient of its own; give normalisation layers running statistics, and let nothing "
            "be drawn at random in eval mode"
        )


def _of_another_kind(tape: Tape, outputs: Tensor) -> list[str]:
    examples = len(outputs)
    without = torch.ones(examples, dtype=torch.bool)  # the first and the last, of which code may read one for all
    without[1 : 1 + examples // 2] = False
    without &= examples > 1
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    cotangents[without] = 0
    parameters = [parameter for block in tape.blocks.values() for parameter in block.parameters]
    if not parameters:
        return []
    pulled, taken = tape.pulled(outputs, cotangents, [*tape.copies.values(), *parameters])
    gradients = dict(zip(map(id, parameters), taken[len(tape.copies) :], strict=True))
    of_module: dict[nn.Module | None, list[Block]] = {}
    for block in tape.blocks.values():
        of_module.setdefault(block.module, []).append(block)
    copied = {name: as_rows(g) for name, g in zip(tape.copies, taken, strict=False) if g is not None}
    others = []
    for module, blocks in of_module.items():
        if module is not None and any(call.examples == 0 for call in tape.calls.get(module, [])):
            others += [block.name for block in blocks]  # an expert, which other batches feed some of their examples
            continue
        try:
            found = copied if module is None else tape.of_layer(module, pulled.get(module, []), examples)
        except (ValueError, RuntimeError, IndexError, UnsupportedLayerError):  # fed in another way than its type is
            others += [block.name for block in blocks]
            continue
        for block in blocks:
            expected = block.matrix([dense_gradient(gradients[id(p)], p) for p in block.parameters])
            if not _agrees(found.get(block.name), expected, without):
                others.append(block.name)
    return others


def _agrees(factors: Factors | None, expected: Tensor, without: Tensor) -> bool:
    """Return whether a block's factors sum up to its gradient, and are zero for examples without a cotangent."""
    if factors is None:
        return not bool(expected.any())
    size = torch.linalg.vector_norm(factors.absolute().summed())
    tolerance = factors.rounding**0.5 * size
    difference = torch.linalg.vector_norm(factors.summed() - expected)
    return bool(difference <= tolerance and factors.lengths()[without].sum() <= tolerance)
