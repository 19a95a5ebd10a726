"""Output cotangents whose pulled-back outer products average to the Fisher information.

For outputs h with the likelihood p(y|h) the Fisher is F = E_x[Jᵀ I(h) J], I(h) = Cov(∇_h log p). A cotangent u per
example with E[uuᵀ] = I(h) turns that into an average of squared gradients Jᵀu.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ong.curvature.likelihoods import Likelihood, check_likelihood
from ong.errors import UnknownNameError, UserError

__all__ = ["FISHER_TYPES", "FisherType", "check_fisher", "cotangents", "needs_likelihood", "residual"]

FisherType = Literal["mc", "rademacher", "exact", "empirical", "logit"]
FISHER_TYPES: tuple[str, ...] = get_args(FisherType)


def check_fisher(fisher: str) -> None:
    """Raise :class:`UnknownNameError` unless ``fisher`` is a known type."""
    if fisher not in FISHER_TYPES:
        raise UnknownNameError("Fisher type", fisher, FISHER_TYPES)


def needs_likelihood(fisher: FisherType) -> bool:
    """Return whether a type depends on the likelihood."""
    return fisher != "logit"


def _signs(like: Tensor, generator: torch.Generator | None) -> Tensor:
    bits = torch.randint(0, 2, like.shape, generator=generator, device=like.device)
    return bits.to(like.dtype) * 2 - 1


def residual(h: Tensor, targets: Tensor, likelihood: Likelihood) -> Tensor:
    """Return −∇_h log p(y|h), ``[N, C]``: p − y, with p the mean of y under the likelihood.

    Labels of no class (−100, an ``ignore_index``) give 0.

    Args:
        h: outputs, ``[N, C]``.
        targets: labels ``[N]`` or class probabilities ``[N, C]`` (categorical); ``[N, C]``, or ``[N]`` for one output.
        likelihood: of y given h.

    Raises:
        UserError: targets of another shape.
    """
    if likelihood == "categorical":
        p = torch.softmax(h, 1)
        if targets.is_floating_point() and targets.shape == h.shape:
            return p - targets.to(p)
        if targets.ndim != 1 or targets.is_floating_point():
            raise UserError(f"categorical targets are class numbers [examples], got {list(targets.shape)}")
        if int(targets.max()) >= h.shape[1]:
            raise UserError(f"a label is {int(targets.max())}, and the model has {h.shape[1]} outputs")
        known = targets >= 0
        return (p - F.one_hot(targets.clamp_min(0), h.shape[1]).to(p)) * known[:, None]
    mean = torch.sigmoid(h) if likelihood == "bernoulli" else h
    if targets.numel() != h.numel():
        raise UserError(f"{likelihood} targets must have the outputs' shape {list(h.shape)}, got {list(targets.shape)}")
    return mean - targets.reshape(h.shape).to(h)


def cotangents(
    logits: Tensor,
    fisher: FisherType = "rademacher",
    *,
    likelihood: Likelihood = "categorical",
    targets: Tensor | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yield cotangent sets u, each ``[N, C]``, with E[Σ_sets uuᵀ] = I(h) but for ``empirical`` and ``logit``.

    ============  ===============================  =====================  =================  =========
    fisher        categorical, p = softmax(h)      bernoulli, p = σ(h)    gaussian           sets
    ============  ===============================  =====================  =================  =========
    mc            p − onehot(y), y ~ p             p − y, y ~ p           n ~ N(0, I)        samples
    rademacher    (diag√p − p√pᵀ) ε, ε = ±1        √(p(1−p)) ∘ ε          ε                  samples
    exact         columns of diag√p − p√pᵀ         √(p_c(1−p_c)) e_c      e_c                C
    empirical     p − onehot(true y)               p − y                  h − y              1
    logit         ε = ±1, whatever the likelihood: E[uuᵀ] = I                                samples
    ============  ===============================  =====================  =================  =========

    I(h) is diag p − ppᵀ, diag p(1−p) and the identity. Random sets are divided by √samples, so that every type's sets
    are to be *summed*.

    Args:
        logits: h, ``[N, C]``; detached here.
        fisher: the type.
        likelihood: of the targets given the outputs.
        targets: true targets, needed by ``empirical`` only, see :func:`residual`.
        samples: draws of the random types.
        generator: source of the random types' randomness, on the logits' device.

    Raises:
        UnknownNameError: an unknown type or likelihood.
        ValueError: ``samples`` below 1, or ``empirical`` without targets.
    """
    check_fisher(fisher)
    check_likelihood(likelihood)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    h = logits.detach()
    h = h.float() if h.dtype in (torch.float16, torch.bfloat16) else h
    if fisher == "empirical":
        if targets is None:
            raise ValueError("the empirical Fisher needs the true targets")
        yield residual(h, targets, likelihood)
        return
    count = h.shape[1] if fisher == "exact" else samples
    for c in range(count):
        if fisher == "logit":
            u = _signs(h, generator)
        elif fisher == "mc":
            u = _drawn(h, likelihood, generator)
        else:
            signs = F.one_hot(torch.tensor(c), h.shape[1]).to(h).expand_as(h) if fisher == "exact" else None
            u = _root(h, likelihood, _signs(h, generator) if signs is None else signs)
        yield u if fisher == "exact" else u / samples**0.5


def _drawn(h: Tensor, likelihood: Likelihood, generator: torch.Generator | None) -> Tensor:
    """Return the residual of a target drawn from the likelihood."""
    if likelihood == "categorical":
        drawn = torch.multinomial(torch.softmax(h, 1), 1, generator=generator)[:, 0]
        return residual(h, drawn, likelihood)
    if likelihood == "bernoulli":
        p = torch.sigmoid(h)
        return p - torch.bernoulli(p, generator=generator)
    return torch.randn(h.shape, generator=generator, dtype=h.dtype, device=h.device)


def _root(h: Tensor, likelihood: Likelihood, vector: Tensor) -> Tensor:
    """Return Bε for a B with BBᵀ = I(h)."""
    if likelihood == "categorical":
        p = torch.softmax(h, 1)
        signed = p.sqrt() * vector
        return signed - p * signed.sum(1, keepdim=True)
    if likelihood == "bernoulli":
        p = torch.sigmoid(h)
        return (p * (1 - p)).sqrt() * vector
    return vector.clone()
