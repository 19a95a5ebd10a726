"""The directions a finished task leaves behind: gradients of its outputs at the weights it ended with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature import Batch, Block, Factors, Forward, evaluating, record
from ong.errors import UnknownNameError
from ong.projection.rows import Rows, rows_from_factors

__all__ = ["DIRECTION_KINDS", "DirectionKind", "check_directions", "collect_directions"]

DirectionKind = Literal["gtl", "ave", "all", "loss"]
DIRECTION_KINDS: tuple[str, ...] = get_args(DirectionKind)


def check_directions(kind: str) -> None:
    """Raise :class:`UnknownNameError` unless ``kind`` is a known kind of direction."""
    if kind not in DIRECTION_KINDS:
        raise UnknownNameError("kind of direction", kind, DIRECTION_KINDS)


def _cotangents(logits: Tensor, targets: Tensor, kind: DirectionKind) -> Iterator[Tensor]:
    h = logits.detach()
    if kind == "gtl":
        yield F.one_hot(targets, h.shape[1]).to(h)
    elif kind == "ave":
        yield torch.full_like(h, 1 / h.shape[1])
    elif kind == "loss":
        yield torch.softmax(h, 1) - F.one_hot(targets, h.shape[1]).to(h)
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
    blocks: Mapping[str, Block],
    forward: Forward | None = None,
) -> dict[str, Rows]:
    """Return one direction an example (C of them for ``all``), the model in eval mode and the criterion unused.

    ========  ==============================================  ==========
    kind      direction of example (x, y)                     an example
    ========  ==============================================  ==========
    gtl       ∇ h_y, the true logit (OGD's choice)            1
    ave       ∇ mean_c h_c                                    1
    all       ∇ h_c for every class c                         C
    loss      ∇ cross-entropy                                 1
    ========  ==============================================  ==========

    Source: Farajtabar et al., arXiv 1910.07104, §3.

    Args:
        model: the network at the weights the task ended with.
        batch: inputs and targets ``[N]`` of the task's training examples.
        kind: as tabled.
        blocks: the model's blocks.
        forward: maps the batch to logits ``[N, C]``; ``model(batch[0])`` by default.
    """
    check_directions(kind)
    with evaluating(model):
        with record(blocks) as tape:
            logits = forward(batch) if forward is not None else model(batch[0])
        sets = [tape.factors(logits, u) for u in _cotangents(logits, batch[1], kind)]
    return {
        name: rows_from_factors(
            Factors(torch.cat([s[name].inputs for s in sets]), torch.cat([s[name].outputs for s in sets]))
        )
        for name in sets[0]
    }
