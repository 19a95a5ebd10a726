"""Output cotangents whose pulled-back outer products average to the Fisher information.

For logits h with p = softmax(h) the Fisher of the categorical likelihood is F = E_x[Jᵀ (diag p − ppᵀ) J]. A cotangent u
per example with E[uuᵀ] = diag p − ppᵀ turns that into an average of squared gradients Jᵀu (math.md §2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from ong.errors import UnknownNameError

__all__ = ["FISHER_TYPES", "FisherType", "check_fisher", "cotangents"]

FisherType = Literal["mc", "rademacher", "exact", "empirical", "logit"]
FISHER_TYPES: tuple[str, ...] = get_args(FisherType)


def check_fisher(fisher: str) -> None:
    """Raise :class:`UnknownNameError` unless ``fisher`` is a known type."""
    if fisher not in FISHER_TYPES:
        raise UnknownNameError("Fisher type", fisher, FISHER_TYPES)


def _signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return bits.to(like.dtype) * 2 - 1


def cotangents(
    logits: Tensor,
    fisher: FisherType = "rademacher",
    *,
    targets: Tensor | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield cotangent sets u, each ``[N, C]``, with E[Σ_sets uuᵀ] as tabled.

    ============  =============================  ==================  =========
    fisher        u of one example               E[Σ uuᵀ]            sets
    ============  =============================  ==================  =========
    mc            p − onehot(y), y ~ p           diag p − ppᵀ        samples
    rademacher    (diag√p − p√pᵀ) ε, ε = ±1      diag p − ppᵀ        samples
    exact         columns of diag√p − p√pᵀ       diag p − ppᵀ        C
    empirical     p − onehot(true y)             not the Fisher      1
    logit         ε = ±1                         I                   samples
    ============  =============================  ==================  =========

    Random sets are divided by √samples, so that every type's sets are to be *summed*.

    Args:
        logits: ``[N, C]``; detached here.
        fisher: the type.
        targets: true labels ``[N]``, needed by ``empirical`` only.
        samples: draws of the random types.
        generator: source of the random types' randomness, on the logits' device.

    Raises:
        UnknownNameError: an unknown type.
        ValueError: ``samples`` below 1, or ``empirical`` without targets.
    """
    check_fisher(fisher)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    h = logits.detach()
    h = h.float() if h.dtype in (torch.float16, torch.bfloat16) else h
    p = torch.softmax(h, dim=1)
    root = p.sqrt()
    if fisher == "exact":
        for c in range(p.shape[1]):
            column = -p * root[:, c : c + 1]
            column[:, c] += root[:, c]
            yield column
    elif fisher == "empirical":
        if targets is None:
            raise ValueError("the empirical Fisher needs the true targets")
        yield p - torch.nn.functional.one_hot(targets, p.shape[1]).to(p.dtype)
    else:
        for _ in range(samples):
            if fisher == "mc":
                drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
                u = p - torch.nn.functional.one_hot(drawn, p.shape[1]).to(p.dtype)
            elif fisher == "rademacher":
                signed = root * _signs(p, generator)
                u = signed - p * signed.sum(1, keepdim=True)
            else:
                u = _signs(p, generator)
            yield u / samples**0.5
