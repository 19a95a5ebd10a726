"""Per-example gradients of any model: factors of its layers, and the gradients themselves of everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from torch import Tensor

from ong.curvature.batches import Batch, Forward, batch_size, select
from ong.curvature.blocks import Block
from ong.curvature.copies import gradients_by_copies
from ong.curvature.factors import Factors, joined_examples
from ong.curvature.tape import record

__all__ = ["example_gradients"]

Cotangents = Callable[[Tensor, Batch], Iterable[Tensor]]
"""From logits and batch to sets of cotangents u ``[N, C]``."""


def example_gradients(
    blocks: Mapping[str, Block], run: Forward, batch: Batch, cotangents: Cotangents
) -> Iterator[dict[str, Factors]]:
    """Yield, for each set of cotangents, the gradients of every example of a batch.

    One forward for the batch where all layers see all of its examples. Parameters that are no layer's take a second
    one, in which every example has copies of them, or where that cannot be a forward and a backward an example.

    Args:
        blocks: the model's blocks.
        run: from a batch to logits ``[N, C]``; to be called in eval mode with gradients on.
        batch: N examples.
        cotangents: from logits and batch to sets ``[N, C]``.
    """
    together = {name: block for name, block in blocks.items() if block.module is not None or block.broadcast}
    others = {name: block for name, block in blocks.items() if name not in together}
    with record(together, batch_size(batch)) as tape:
        logits = run(batch)
    if not tape.has_examples_first(len(logits)):
        yield from _one_at_a_time(blocks, run, batch, list(cotangents(logits.detach(), batch)))
        return
    if not others:
        for u in cotangents(logits, batch):
            yield tape.factors(logits, u)
        return
    sets = list(cotangents(logits.detach(), batch))
    apart = gradients_by_copies(others, run, batch, logits, sets) if sets else []
    for u, parts in zip(sets, apart or _one_at_a_time(others, run, batch, sets), strict=True):
        yield tape.factors(logits, u) | parts


def _one_at_a_time(
    blocks: Mapping[str, Block], run: Forward, batch: Batch, sets: Sequence[Tensor]
) -> Iterator[dict[str, Factors]]:
    found: list[list[dict[str, Factors]]] = [[] for _ in sets]
    for n in range(batch_size(batch)):
        with record(blocks) as tape:
            logits = run(select(batch, slice(n, n + 1)))
        for parts, u in zip(found, sets, strict=True):
            parts.append(tape.factors(logits, u[n : n + 1]))
    for parts in found:
        names = {name: None for part in parts for name in part}
        yield {name: joined_examples([part.get(name) for part in parts]) for name in names}
