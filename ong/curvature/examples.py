"""Per-example gradients of any model: factors of its layers, and the gradients themselves of everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ong.curvature.batches import Batch, Forward, batch_size, select
from ong.curvature.blocks import Block, dense_gradient
from ong.curvature.copies import gradients_by_copies
from ong.curvature.factors import Factors, joined_examples
from ong.curvature.layers import UnsupportedLayerError
from ong.curvature.precision import holds
from ong.curvature.tape import record

__all__ = ["example_gradients"]

Cotangents = Callable[[Tensor, Batch], Iterable[Tensor]]
"""From logits and batch to sets of cotangents u ``[N, C]``."""


def example_gradients(
    blocks: Mapping[str, Block], run: Forward, batch: Batch, cotangents: Cotangents
) -> Iterator[dict[str, Factors]]:
    """Yield, for each set of cotangents, the gradients of every example of a batch.

    One forward for the batch where all layers see all of its examples. Parameters that are no layer's take a second
    one, in which every example has copies of them, or where that cannot be a forward and a backward an example. The
    latter is also taken for layers that stand ``alone``, where the batch reaches them, and for all blocks where some
    examples are sent to a layer and others are not. A layer that an example does not reach has a gradient of zero.

    Args:
        blocks: the model's blocks.
        run: from a batch to logits ``[N, C]``; to be called in eval mode with gradients on.
        batch: N examples.
        cotangents: from logits and batch to sets ``[N, C]``.

    Raises:
        UnsupportedLayerError: gradients of single examples that do not sum up to the batch's.
    """
    layers = {name for name, block in blocks.items() if block.module is not None and not block.alone}
    together = {name: block for name, block in blocks.items() if name in layers or block.broadcast}
    others = {name: block for name, block in blocks.items() if name not in together}
    with record(together, batch_size(batch)) as tape:
        logits = run(batch)
    reached = _reached([block for block in others.values() if block.alone], logits)
    others = {name: block for name, block in others.items() if not block.alone or name in reached}
    if not tape.has_examples_first(len(logits)):
        yield from _one_at_a_time(blocks, run, batch, logits, list(cotangents(logits.detach(), batch)))
        return
    if not others:
        for u in cotangents(logits, batch):
            yield tape.factors(logits, u)
        return
    sets = list(cotangents(logits.detach(), batch))
    apart = gradients_by_copies(others, run, batch, logits, sets) if sets and not reached else []
    for u, parts in zip(sets, apart or _one_at_a_time(others, run, batch, logits, sets), strict=True):
        yield tape.factors(logits, u) | parts


def _reached(blocks: Sequence[Block], outputs: Tensor) -> set[str]:
    """Return the names of blocks that the outputs depend on."""
    parameters = [parameter for block in blocks for parameter in block.parameters]
    if not parameters or not outputs.requires_grad:
        return set()
    gradients = torch.autograd.grad(outputs.sum(), parameters, retain_graph=True, allow_unused=True)
    found = {id(parameter) for parameter, g in zip(parameters, gradients, strict=True) if g is not None}
    return {block.name for block in blocks if any(id(parameter) in found for parameter in block.parameters)}


def _one_at_a_time(
    blocks: Mapping[str, Block], run: Forward, batch: Batch, outputs: Tensor, sets: Sequence[Tensor]
) -> list[dict[str, Factors]]:
    found: list[list[dict[str, Factors]]] = [[] for _ in sets]
    for n in range(batch_size(batch)):
        with record(blocks) as tape:
            logits = run(select(batch, slice(n, n + 1)))
        for parts, u in zip(found, sets, strict=True):
            parts.append(tape.factors(logits, u[n : n + 1]))
    result = []
    for parts in found:
        names = {name: None for part in parts for name in part}
        result.append({name: joined_examples([part.get(name) for part in parts]) for name in names})
    if result:
        _check_sum(blocks, result[0], outputs, sets[0])
    return result


def _check_sum(blocks: Mapping[str, Block], found: Mapping[str, Factors], outputs: Tensor, cotangents: Tensor) -> None:
    """See that one example alone has the gradient that it has among others: a kernel of its own may have a bug."""
    parameters = [parameter for block in blocks.values() for parameter in block.parameters]
    whole = torch.autograd.grad(outputs, parameters, cotangents.to(outputs), True, allow_unused=True)
    gradients = iter(whole)
    for name, block in blocks.items():
        expected = block.matrix([dense_gradient(next(gradients), parameter) for parameter in block.parameters])
        if name in found:
            # a model of doubles may round to floats inside, as Gemma 2 does; a wrong kernel errs by far more
            rounding = max(found[name].rounding, torch.finfo(torch.float32).eps)
            tolerance = rounding**0.5 * torch.linalg.vector_norm(found[name].absolute().summed())
            agrees = torch.linalg.vector_norm(found[name].summed() - expected) <= tolerance
        else:
            agrees = (expected == 0).all()
        if not holds(agrees):
            raise UnsupportedLayerError(
                f"'{name}' has another gradient when an example is alone than when it is among others, so that no "
                "example's can be trusted; freeze it, or try another release of torch"
            )
