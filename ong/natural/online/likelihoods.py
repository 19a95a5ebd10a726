"""What a network's outputs mean: the loss they are trained on, and the cotangents that average to its Fisher.

For outputs h and a likelihood p(y | h) the Fisher information of h is I(h) = E_y[∇_h log p ∇_h log pᵀ]. A
cotangent u per example with E[uuᵀ] = I(h) pulls back to layer factors δ with E[δδᵀ] = Λ̃.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ong.curvature.fisher import cotangents
from ong.errors import UnknownNameError, UserError

__all__ = ["LIKELIHOODS", "Bernoulli", "Categorical", "Gaussian", "Likelihood", "likelihood_of"]


class Likelihood(Protocol):
    """A loss over outputs ``[N, C]`` and its Fisher information."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over examples of −log p(y | h), constants dropped; a scalar, in nats an example."""
        ...

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise :class:`UserError` for targets that the likelihood gives no probability."""
        ...

    def cotangent(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw u of ``[N, C]``, independent over examples, with E[uuᵀ] = I(h)."""
        ...


class Gaussian:
    """y | h ~ N(h, 1): loss ½‖y − h‖² an example, I(h) = 1, u ~ N(0, 1)."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over examples of ½‖y − h‖²."""
        return 0.5 * (outputs - targets).square().sum() / len(outputs)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise :class:`UserError` unless the targets are finite numbers of the outputs' shape."""
        _check_shapes("gaussian", outputs, targets)
        if not bool(torch.isfinite(targets).all()):
            raise UserError("the Gaussian likelihood's targets hold NaN or infinity; expected finite numbers")

    def cotangent(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw u ~ N(0, 1)."""
        return torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype, device=outputs.device)


class Bernoulli:
    """y | h ~ Bernoulli(p) a coordinate, p = σ(h): cross-entropy, I(h) = diag p(1 − p), u = ±√(p(1 − p)).

    Targets between 0 and 1 count as probabilities of ones, as usual for grey images. The signs have the
    variance of a sampled residual p − y, y ~ Bernoulli(p), and no kurtosis beyond it.
    """

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over examples of −Σ_c y_c log p_c + (1 − y_c) log(1 − p_c)."""
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / len(outputs)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise :class:`UserError` unless the targets lie in [0, 1] and have the outputs' shape."""
        _check_shapes("bernoulli", outputs, targets)
        low, high = (float(edge) for edge in torch.aminmax(targets))
        if not (low >= 0.0 and high <= 1.0):
            raise UserError(
                f"the Bernoulli likelihood's targets must lie in [0, 1]; got values from {low:g} to "
                f"{high:g}; scale them, or use likelihood='gaussian'"
            )

    def cotangent(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw u = ±√(p(1 − p))."""
        p = torch.sigmoid(outputs)
        signs = torch.randint(0, 2, p.shape, generator=generator, device=p.device).to(p.dtype) * 2 - 1
        return signs * (p * (1 - p)).sqrt()


class Categorical:
    """y | h ~ Categorical(p), p = softmax(h): I(h) = diag p − ppᵀ, u = (diag √p − p√pᵀ) ε, ε = ±1."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over examples of −log p_y; targets are class numbers ``[N]``."""
        return F.cross_entropy(outputs, targets)

    def check(self, outputs: Tensor, targets: Tensor) -> None:
        """Raise :class:`UserError` unless the targets are class numbers from 0 to C − 1."""
        if targets.dtype != torch.int64 or targets.shape != outputs.shape[:1]:
            raise UserError(
                f"the categorical likelihood's targets must be int64 class numbers, "
                f"[{len(outputs)}]; got {targets.dtype} of shape {list(targets.shape)}"
            )
        low, high = (int(edge) for edge in torch.aminmax(targets))
        if low < 0 or high >= outputs.shape[1]:
            raise UserError(
                f"the categorical likelihood's targets must lie in 0 … {outputs.shape[1] - 1}, as there are "
                f"{outputs.shape[1]} outputs; got values from {low} to {high}"
            )

    def cotangent(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw u = (diag √p − p√pᵀ) ε."""
        return next(cotangents(outputs, "rademacher", generator=generator))


LIKELIHOODS: dict[str, Likelihood] = {
    "gaussian": Gaussian(),
    "bernoulli": Bernoulli(),
    "categorical": Categorical(),
}
"""The likelihoods by name."""


def likelihood_of(likelihood: str | Likelihood) -> Likelihood:
    """Return a likelihood by name, or the one given.

    Raises:
        UnknownNameError: no such likelihood.
    """
    if not isinstance(likelihood, str):
        return likelihood
    if likelihood not in LIKELIHOODS:
        raise UnknownNameError("likelihood", likelihood, LIKELIHOODS)
    return LIKELIHOODS[likelihood]


def _check_shapes(name: str, outputs: Tensor, targets: Tensor) -> None:
    if targets.shape != outputs.shape or not targets.is_floating_point():
        raise UserError(
            f"the {name} likelihood's targets must be floating-point numbers of the outputs' shape "
            f"{list(outputs.shape)} (examples flattened); got {targets.dtype} of {list(targets.shape)}"
        )
