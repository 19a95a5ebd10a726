"""Per-example gradients of any parameters: every example works with a copy of its own."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ong.curvature.batches import Batch, Forward, map_batch
from ong.curvature.blocks import Block, dense_gradient, in_place_of
from ong.curvature.factors import Factors, as_rows
from ong.curvature.precision import holds

__all__ = ["gradients_by_copies"]


def gradients_by_copies(
    blocks: Mapping[str, Block], run: Forward, batch: Batch, outputs: Tensor, sets: Sequence[Tensor]
) -> list[dict[str, Factors]] | None:
    """Return the gradients of parameters of their own, of every example and set of cotangents.

    One forward for the batch (:func:`torch.vmap`), in which example n reads the n-th of N expanded views of a
    parameter; their gradients are those of the examples. That they sum up to the batch's gradient is looked at.

    Args:
        blocks: parameters of their own.
        run: from a batch to logits ``[N, C]``.
        batch: N examples.
        outputs: its logits, with their graph.
        sets: cotangents, ``[N, C]`` each.

    Returns:
        A dictionary a set; None for a model that cannot be run so (it branches on its data, has a recurrent kernel,
        recomputes activations, …).
    """
    parameters = [block.parameters[0] for block in blocks.values()]
    tensors: list[Tensor] = []
    map_batch(tensors.append, batch)
    copies = [p.detach().expand(len(outputs), *p.shape).requires_grad_() for p in parameters]

    def alone(own: list[Tensor], example: list[Tensor]) -> Tensor:
        left = iter(example)
        with in_place_of(blocks.values(), own):
            return run(map_batch(lambda _: next(left)[None], batch))[0]

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # an operation that vmap takes in turn
            found = torch.vmap(alone)(copies, tensors)
            pulled = [torch.autograd.grad(found, copies, u.to(found), True, allow_unused=True) for u in sets]
    except Exception:  # of any type, as the model's own code meets tensors of another kind; a loop shows what is wrong
        return None
    whole = torch.autograd.grad(outputs, parameters, sets[0].to(outputs), True, allow_unused=True)
    if not all(_agree(g, w, p) for g, w, p in zip(pulled[0], whole, parameters, strict=True)):
        return None
    return [
        {name: as_rows(gradient) for name, gradient in zip(blocks, gradients, strict=True) if gradient is not None}
        for gradients in pulled
    ]


def _agree(gradients: Tensor | None, whole: Tensor | None, parameter: Tensor) -> bool:
    """Return whether gradients of the examples sum up to that of the batch."""
    expected = dense_gradient(whole, parameter)
    if gradients is None:
        return holds((expected == 0).all())
    size = torch.linalg.vector_norm(gradients.abs().sum(0))
    tolerance = torch.finfo(parameter.dtype).eps ** 0.5 * size
    return holds(torch.linalg.vector_norm(gradients.sum(0) - expected) <= tolerance)
