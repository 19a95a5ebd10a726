"""A model's blocks, each with per-example gradients that are those of autograd."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.parameter import UninitializedParameter

from ong.curvature.batches import Batch, Forward, batch_size, checked_logits, select
from ong.curvature.blocks import Block, dense_gradient, evaluating, find_blocks
from ong.curvature.factors import Factors, Lookups, as_rows
from ong.curvature.layers import UnsupportedLayerError, layouts_of
from ong.curvature.tape import Recorded, Tape, record
from ong.errors import NotFiniteError, UserError

__all__ = ["PROBED", "cover"]

PROBED = 8  # examples that tell
_AGAIN = 3  # of them once more, without the others and in another order


def cover(
    model: nn.Module,
    run: Forward,
    batch: Batch,
    *,
    among: Collection[nn.Parameter] | None = None,
    apart: Collection[str] = (),
    kept: Collection[str] = (),
) -> dict[str, Block]:
    """Return blocks that cover every trainable parameter.

    On a few examples Σ_n G_n of each layer, out of its inputs and back-propagated outputs, is compared with autograd,
    with cotangents for half of the examples only, so that a layer which spreads an example over others shows too. Some
    of the examples pass a second time, in the other order, in which each layer must see them: so a model shows that
    sorts its examples, whatever order the first one was. The same is seen to for what is one for all examples (class
    tokens, tables of places), read as a copy an example. A layer that fails has a ``forward`` of its own, weights that
    other code reads, or inputs without examples first: its parameters become blocks of their own. A layer that none of
    the examples reached (an expert, another task's head) stays a block, of which nothing is known: it stands alone.

    Args:
        model: the network.
        run: from a batch to logits ``[N, C]``.
        batch: examples of the task; eight of them are looked at.
        among: the parameters that count, an optimizer's; all by default.
        apart: layers whose parameters are to be blocks of their own, as they were in a past task.
        kept: layers that were blocks in a past task: one that fails stays a block, and stands alone.

    Raises:
        UnsupportedLayerError: the output for an example depends on the other examples of its batch, in eval mode.
        NotFiniteError: weights or outputs that are not finite.
        UserError: outputs that are not ``[N, C]``, or of checkpointed activations that hide their parameters.
    """
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise UserError(f"'{name}' has no shape yet; run the model on a batch once before")
        if parameter.is_complex() and parameter.requires_grad:
            raise UnsupportedLayerError(
                f"'{name}' holds complex numbers; train their parts, parameter = torch.view_as_real(…), and put them "
                "together in forward by torch.view_as_complex(parameter), or freeze it"
            )
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
        _check_graph(outputs)
        if not outputs.isfinite().all():
            raise NotFiniteError("the outputs are not finite: weights or inputs have diverged")
        order = torch.arange(1, min(1 + _AGAIN, batch_size(batch))).flip(0)
        second = None
        if len(order):
            some, known = select(batch, order), tape.broadcast
            same = {name: replace(block, broadcast=name in known) for name, block in tape.blocks.items()}
            with record(same, len(order)) as again:
                second = again, checked_logits(run(some), some), order
            _check_apart(model, outputs[order.to(outputs.device)].detach(), second[1].detach())
        others, unreached = _of_another_kind(tape, outputs, second)
    alone = {blocks[name].module for name in unreached | others.intersection(kept)} - {None}
    others = {name for name in others if blocks[name].module not in alone}
    repeated = set(tape.broadcast).difference(others)
    found_blocks = find_blocks(model, among=among, apart=[*apart, *others]) if others else blocks
    return {
        name: replace(block, alone=True) if block.module in alone else replace(block, broadcast=name in repeated)
        for name, block in found_blocks.items()
    }


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
        plain = checked_logits(run(batch), batch).detach()  # not under no_grad: LeViT keeps what it computes
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


def _check_graph(outputs: Tensor) -> None:
    """Refuse checkpoints that show their parameters to nothing but ``loss.backward()``."""
    seen, ahead = set[Node](), [outputs.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise UserError(
                "activations are checkpointed with use_reentrant=True, which hides what is inside from all but "
                "loss.backward(); pass use_reentrant=False to torch.utils.checkpoint"
            )
        seen.add(node)
        ahead += [following for following, _ in node.next_functions]


def _of_another_kind(
    tape: Tape, outputs: Tensor, second: tuple[Tape, Tensor, Tensor] | None
) -> tuple[set[str], set[str]]:
    """Return the blocks whose factors are not their gradients, and those of layers that no example reached.

    Args:
        tape: of a pass of all examples.
        outputs: of that.
        second: of another pass the same, and which examples that was of.
    """
    examples = len(outputs)
    without = torch.ones(examples, dtype=torch.bool)  # the first and the last, of which code may read one for all
    without[1 : 1 + examples // 2] = False
    without &= examples > 1
    cotangents = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    cotangents[without] = 0
    parameters = [parameter for block in tape.blocks.values() for parameter in block.parameters]
    pulled, taken = tape.pulled(outputs, cotangents, [*tape.copies.values(), *parameters])
    gradients = dict(zip(map(id, parameters), taken[len(tape.copies) :], strict=True))
    of_module: dict[nn.Module | None, list[Block]] = {}
    for block in tape.blocks.values():
        of_module.setdefault(block.module, []).append(block)
    copied = {name: as_rows(g) for name, g in zip(tape.copies, taken, strict=False) if g is not None}
    others, unreached = set[str](), set[str]()
    again: dict[nn.Module, list[tuple[Recorded, Tensor]]] = {}
    if second is not None:
        tape_again, outputs_again, order = second
        again, _ = tape_again.pulled(outputs_again, cotangents[order.to(cotangents.device)], [])
    for module, blocks in of_module.items():
        names = {block.name for block in blocks}
        expected = {b.name: b.matrix([dense_gradient(gradients[id(p)], p) for p in b.parameters]) for b in blocks}
        calls = tape.calls.get(module, []) if module is not None else []
        if module is not None and not (calls and all(call.examples for call in calls)):
            (others if any(gradient.any() for gradient in expected.values()) else unreached).update(names)
            continue
        try:
            found = copied if module is None else tape.of_layer(module, pulled.get(module, []), examples)
            moved = set[str]()
            if module is not None and module in again:
                moved = _moved(found, tape_again.of_layer(module, again[module], len(order)), order)
        except (ValueError, RuntimeError, IndexError, UnsupportedLayerError):  # fed in another way than its type is
            others |= names
            continue
        others |= moved | {name for name in names if not _agrees(found.get(name), expected[name], without)}
    return others, unreached


def _moved(found: Mapping[str, Factors], again: Mapping[str, Factors], order: Tensor) -> set[str]:
    """Return the blocks whose inputs are those of other examples in a second pass, of the first's in an order."""
    moved = set()
    for name in found.keys() & again.keys():
        first, then = (f.indices.float() if isinstance(f, Lookups) else f.inputs for f in (found[name], again[name]))
        first = first[order.to(first.device)]
        distance = torch.linalg.vector_norm(first - then) if first.shape == then.shape else torch.inf
        if distance > 10 * again[name].rounding ** 0.5 * torch.linalg.vector_norm(first):
            moved.add(name)
    return moved


def _agrees(factors: Factors | None, expected: Tensor, without: Tensor) -> bool:
    """Return whether a block's factors sum up to its gradient, and are zero for examples without a cotangent."""
    if factors is None:
        return not bool(expected.any())
    size = torch.linalg.vector_norm(factors.absolute().summed())
    tolerance = factors.rounding**0.5 * size
    difference = torch.linalg.vector_norm(factors.summed().sub_(expected))
    return bool(difference <= tolerance and factors.lengths()[without].sum() <= tolerance)
