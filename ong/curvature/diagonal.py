"""The diagonal of the Fisher, from per-example gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ong.curvature.blocks import Block, Vector, evaluating
from ong.curvature.eigenblock import gradient_squares
from ong.curvature.ekfac import Batch, Forward
from ong.curvature.factors import record
from ong.curvature.fisher import FisherType, check_fisher, cotangents
from ong.curvature.own_blocks import PROBED, own_blocks
from ong.errors import NotFiniteError

__all__ = ["diagonal_fisher"]


def diagonal_fisher(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    fisher: FisherType = "rademacher",
    samples: int = 1,
    generator: torch.Generator | None = None,
    forward: Forward | None = None,
    blocks: Mapping[str, Block] | None = None,
) -> Vector:
    """Return diag F = (1/N) Σ_n Σ_u (J_nᵀu)^{∘2}, a matrix ``[rows, columns]`` float64 a block.

    Gradients are squared example by example, δ²ᵀa² for a plain linear layer; the square of a batch's mean gradient
    is another quantity, smaller by up to the batch size. Blocks that took no part in the forward are absent.

    Args:
        model: the network, put in eval mode meanwhile.
        batches: the data.
        fisher: see :func:`ong.curvature.fisher.cotangents`.
        samples: draws an example of the random Fisher types.
        generator: their randomness, on the model's device; one seeded with 0 by default.
        forward: maps a batch to logits ``[N, C]``; ``model(batch[0])`` by default.
        blocks: the model's blocks, where the caller has them already.

    Raises:
        ValueError: no examples.
        UnsupportedLayerError: without ``blocks``, a layer that :func:`ong.curvature.own_blocks` refuses.
        NotFiniteError: a gradient that is not finite.
    """
    check_fisher(fisher)
    examples = sum(len(batch[0]) for batch in batches)
    if not examples:
        raise ValueError("the Fisher needs at least one example")
    run = forward if forward is not None else (lambda batch: model(batch[0]))
    if blocks is None:
        blocks = own_blocks(model, lambda: run([column[:PROBED] for column in batches[0]]))
    if generator is None:
        generator = torch.Generator(batches[0][0].device).manual_seed(0)
    total: Vector = {}
    with evaluating(model):
        for batch in batches:
            with record(blocks) as tape:
                logits = run(batch)
            targets = batch[1] if len(batch) > 1 else None
            for u in cotangents(logits, fisher, targets=targets, samples=samples, generator=generator):
                for name, factors in tape.factors(logits, u).items():
                    squares = gradient_squares(factors) / examples
                    total[name] = total[name] + squares if name in total else squares
    for name, diagonal in total.items():
        if not diagonal.isfinite().all():
            raise NotFiniteError(
                f"the gradients of layer '{name}' are not finite: the weights or the inputs have diverged"
            )
    return total
