"""What a model's outputs mean: the likelihood whose Fisher is taken."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch.nn.functional as F
from torch import Tensor, nn

from ong.errors import UnknownNameError, UserError

__all__ = [
    "LIKELIHOODS",
    "Likelihood",
    "check_likelihood",
    "likelihood_of",
    "likelihood_of_targets",
    "negative_log_likelihood",
]

Likelihood = Literal["categorical", "bernoulli", "gaussian"]
LIKELIHOODS: tuple[str, ...] = get_args(Likelihood)

_LAYERS: tuple[tuple[type[nn.Module], Likelihood], ...] = (
    (nn.CrossEntropyLoss, "categorical"),
    (nn.NLLLoss, "categorical"),
    (nn.BCEWithLogitsLoss, "bernoulli"),
    (nn.MultiLabelSoftMarginLoss, "bernoulli"),
    (nn.MSELoss, "gaussian"),
)
_FUNCTIONS: tuple[tuple[Any, Likelihood], ...] = (
    (F.cross_entropy, "categorical"),
    (F.nll_loss, "categorical"),
    (F.binary_cross_entropy_with_logits, "bernoulli"),
    (F.mse_loss, "gaussian"),
)


def check_likelihood(name: str) -> Likelihood:
    """Return the name of a likelihood, :class:`UnknownNameError` for any other."""
    if name not in LIKELIHOODS:
        raise UnknownNameError("likelihood", name, LIKELIHOODS)
    return name  # type: ignore[return-value]


def likelihood_of(criterion: Any) -> Likelihood:
    """Return the likelihood whose negative logarithm a loss is.

    ===============================================  =============
    criterion (the class, a subclass, the function)  likelihood
    ===============================================  =============
    CrossEntropyLoss, NLLLoss                        categorical
    BCEWithLogitsLoss, MultiLabelSoftMarginLoss      bernoulli
    MSELoss                                          gaussian, of unit variance
    ===============================================  =============

    Raises:
        UserError: any other criterion.
    """
    for kind, name in _LAYERS:
        if isinstance(criterion, kind):
            return name
    for function, name in _FUNCTIONS:
        if criterion is function:
            return name
    if isinstance(criterion, nn.BCELoss) or criterion is F.binary_cross_entropy:
        raise UserError(
            "BCELoss takes probabilities, and the Fisher is of logits; use BCEWithLogitsLoss, or fisher='logit' with "
            "logits= from before the sigmoid"
        )
    what = getattr(criterion, "__name__", type(criterion).__name__)
    raise UserError(
        f"{what} does not say which likelihood the outputs have; pass likelihood='categorical', 'bernoulli' or "
        "'gaussian', or use fisher='logit', which needs none"
    )


def likelihood_of_targets(logits: Tensor, targets: Tensor | None) -> Likelihood:
    """Return ``categorical`` where targets are class numbers for two outputs or more.

    Raises:
        UserError: any other targets, which several likelihoods have.
    """
    labels = targets is not None and not targets.is_floating_point() and targets.ndim == 1
    if labels and logits.shape[1] > 1:
        return "categorical"
    kind = "no targets" if targets is None else f"targets of {targets.dtype} and shape {list(targets.shape)}"
    raise UserError(
        f"{logits.shape[1]} output(s) with {kind} do not say which likelihood is meant; pass criterion=… or "
        "likelihood='categorical', 'bernoulli' or 'gaussian' to attach, or use fisher='logit', which needs none"
    )


def negative_log_likelihood(logits: Tensor, targets: Tensor, likelihood: Likelihood) -> Tensor:
    """Return −Σ_n log p(y_n|h_n) up to a constant, a scalar; :func:`ong.curvature.residual` is its gradient."""
    if likelihood == "categorical":
        return F.cross_entropy(logits, targets, reduction="sum")
    targets = targets.reshape(logits.shape).to(logits)
    if likelihood == "bernoulli":
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return 0.5 * F.mse_loss(logits, targets, reduction="sum")
