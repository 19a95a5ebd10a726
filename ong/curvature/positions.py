"""At how many positions a model's layers act, told by few examples: with a block's shape, its gradients' size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ong.curvature.batches import Batch, Forward, batch_size, select
from ong.curvature.blocks import Block
from ong.curvature.examples import example_gradients
from ong.curvature.factors import Factors

__all__ = ["MOST_FACTORS", "factor_numbers", "gradients_of_few", "in_pieces", "positions_of"]

MOST_FACTORS = 2**26
"""The most numbers in the factors of examples that go through a network together."""
_LOOKED_AT = 8  # examples at most


def gradients_of_few(
    blocks: Mapping[str, Block], run: Forward, batch: Batch
) -> Iterator[tuple[int, dict[str, Factors]]]:
    """Yield C and the gradient of Σ_c h_c, an example at a time until every block was reached, of at most eight.

    Args:
        blocks: the model's blocks.
        run: from a batch to logits ``[N, C]``; to be called in eval mode with gradients on.
        batch: one example at least.
    """
    outputs = 0

    def ones(logits: Tensor, batch: Batch) -> Iterator[Tensor]:
        nonlocal outputs
        outputs = logits.shape[1]
        yield torch.ones_like(logits)

    reached = set[str]()
    for n in range(min(_LOOKED_AT, batch_size(batch))):
        (gradient,) = example_gradients(blocks, run, select(batch, slice(n, n + 1)), ones)
        yield outputs, gradient
        reached |= gradient.keys()
        if reached >= blocks.keys():
            break


def positions_of(blocks: Mapping[str, Block], run: Forward, batch: Batch) -> dict[str, int]:
    """Return T of each block in the gradient of an example, 0 where none of a batch's first eight reaches the block.

    The first example tells, and of blocks that it does not reach (experts) the next ones; arguments are those of
    :func:`gradients_of_few`.
    """
    found = dict.fromkeys(blocks, 0)
    for _, gradient in gradients_of_few(blocks, run, batch):
        found |= {name: max(found[name], part.inputs.shape[1]) for name, part in gradient.items()}
    return found


def factor_numbers(blocks: Mapping[str, Block], positions: Mapping[str, int]) -> dict[str, int]:
    """Return the numbers in the factors of one example's gradient for each block, T · (rows + columns).

    T · columns where δ is no more than indices, or 1 (parameters of their own, and embeddings).
    """
    return {
        name: positions[name] * (block.shape[1] + (0 if block.is_diagonal else block.rows))
        for name, block in blocks.items()
    }


def in_pieces(batches: Sequence[Batch], numbers: Mapping[str, int]) -> list[Batch]:
    """Return batches in pieces of as many examples, one at least, as have :data:`MOST_FACTORS` numbers in factors."""
    step = max(1, MOST_FACTORS // max(1, sum(numbers.values())))
    return [
        batch if batch_size(batch) <= step else select(batch, slice(start, start + step))
        for batch in batches
        for start in range(0, batch_size(batch), step)
    ]
