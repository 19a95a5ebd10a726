"""The directions a finished task leaves: gradients of its outputs at the weights it ended with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature import (
    Batch,
    Block,
    Factors,
    Forward,
    Likelihood,
    Lookups,
    batch_size,
    evaluating,
    example_gradients,
    holds,
    logits_of,
    residual,
    select,
    targets_of,
)
from ong.errors import NotFiniteError, UnknownNameError, UserError
from ong.projection.lookups import LookupRows
from ong.projection.memory import DirectionMemory
from ong.projection.patches import input_shapes, patch_rows
from ong.projection.rows import Rows, rows_from_factors
from ong.waiting import waiting

__all__ = [
    "DIRECTION_KINDS",
    "DirectionKind",
    "check_directions",
    "collect_directions",
    "direction_cotangents",
    "rows_of",
]

DirectionKind = Literal["gtl", "ave", "all", "loss"]
_NUMBERS = 2**25  # in factors of as many examples as are gone through at a time
DIRECTION_KINDS: tuple[str, ...] = get_args(DirectionKind)


def check_directions(kind: str) -> None:
    """Raise :class:`UnknownNameError` unless ``kind`` is a known kind of direction."""
    if kind not in DIRECTION_KINDS:
        raise UnknownNameError("kind of direction", kind, DIRECTION_KINDS)


def direction_cotangents(
    logits: Tensor, targets: Tensor | None, kind: DirectionKind, likelihood: Likelihood = "categorical"
) -> Iterator[Tensor]:
    """Yield sets of cotangents u ``[N, C]`` whose pulled-back Jᵀu are the directions of a kind.

    Raises:
        UserError: targets that the kind needs and that are missing or of another form.
    """
    h = logits.detach()
    if kind == "gtl":
        if h.shape[1] == 1:
            yield torch.ones_like(h)
            return
        if targets is None or targets.is_floating_point() or targets.ndim != 1:
            shape = "no targets" if targets is None else f"targets of {targets.dtype} and shape {list(targets.shape)}"
            raise UserError(f"directions='gtl' takes the logit of each example's class, and there are {shape}; "
                            "use directions='all' or 'ave'")  # fmt: skip
        if int(targets.max()) >= h.shape[1]:
            raise UserError(f"a label is {int(targets.max())}, and the model has {h.shape[1]} outputs")
        yield F.one_hot(targets, h.shape[1]).to(h)
    elif kind == "ave":
        yield torch.full_like(h, 1 / h.shape[1])
    elif kind == "loss":
        if targets is None:
            raise UserError("directions='loss' needs targets, and the batches have none")
        yield residual(h, targets, likelihood)
    else:
        for c in range(h.shape[1]):
            u = torch.zeros_like(h)
            u[:, c] = 1
            yield u


def collect_directions(
    model: nn.Module,
    batch: Batch,
    *,
    kind: DirectionKind = "gtl",
    likelihood: Likelihood = "categorical",
    blocks: Mapping[str, Block],
    forward: Forward | None = None,
) -> dict[str, Rows]:
    """Return one direction an example (C of them for ``all``), the model in eval mode and the criterion unused.

    ========  ==============================================  ==========
    kind      direction of example (x, y)                     an example
    ========  ==============================================  ==========
    gtl       ∇ h_y, the true logit (OGD's choice); the       1
              only one where there is one
    ave       ∇ mean_c h_c                                    1
    all       ∇ h_c for every output c                        C
    loss      −∇ log p(y|h), of the likelihood                1
    ========  ==============================================  ==========

    Source: Farajtabar et al., arXiv 1910.07104, §3.

    Args:
        model: the network at the weights the task ended with.
        batch: inputs and targets of the task's training examples.
        kind: as tabled.
        likelihood: for ``loss``.
        blocks: the model's blocks.
        forward: maps the batch to logits ``[N, C]``; :func:`ong.curvature.logits_of` by default.

    Raises:
        NotFiniteError: a gradient that is not finite.
    """
    check_directions(kind)
    run = forward if forward is not None else (lambda batch: logits_of(model, batch))

    def gradients(part: Batch) -> Iterator[dict[str, Factors]]:
        yield from example_gradients(
            blocks, run, part, lambda h, b: direction_cotangents(h, targets_of(b), kind, likelihood)
        )

    found: list[DirectionMemory] = []  # of each set of cotangents
    with evaluating(model):
        with input_shapes(blocks) as shapes:
            one = next(gradients(select(batch, slice(0, 1))))
        numbers = sum(map(_numbers, one.values()))
        step = max(1, _NUMBERS // max(1, numbers))
        for start in waiting(range(0, batch_size(batch), step), "  directions"):
            sets = [
                {name: rows_of(part, blocks[name], shapes.get(name)) for name, part in factors.items()}
                for factors in gradients(select(batch, slice(start, start + step)))
            ]
            found = found or [DirectionMemory() for _ in sets]
            for memory, rows in zip(found, sets, strict=True):
                memory.extend(rows, blocks)
    directions, *others = found
    for more in others:
        directions.extend(more.rows, blocks)
    return directions.rows


def _numbers(factors: Factors) -> int:
    return factors.inputs.numel() + (factors.indices if isinstance(factors, Lookups) else factors.outputs).numel()


def rows_of(factors: Factors, block: Block, shape: torch.Size | None) -> Rows:
    """Return gradients in the form of the fewest numbers.

    Args:
        factors: of a block's gradients.
        block: the block.
        shape: of the images that a convolution saw (:func:`ong.projection.input_shapes`).

    Raises:
        NotFiniteError: a gradient that is not finite.
    """
    parts = [factors.inputs] if isinstance(factors, Lookups) else [factors.inputs, factors.outputs]
    if not all(holds(part.isfinite().all()) for part in parts):
        raise NotFiniteError(f"the gradients of layer '{block.name}' are not finite: weights or inputs have diverged")
    if isinstance(factors, Lookups) and factors.indices.shape[1] < block.rows:
        return LookupRows(factors.inputs, factors.indices, block.rows)
    patches = patch_rows(factors, block, shape)
    return rows_from_factors(factors) if patches is None else patches
