"""Unbiased random estimates of a Fisher: the matrix for small networks, its diagonal for any.

N draws at an input enter only through M = mean u uᵀ (estimators of squares) and r = mean (t−η) (Î₂):
Î₁ = JᵀMJ with u = t−η; Rademacher and Gaussian ε the same with u = Bε; Î₂ = JᵀIJ − Σ_a r_a H_a.
The estimate is the mean over inputs. ``exact`` is JᵀIJ itself, without draws.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ong.curvature.variance.checks import check_count, check_name, resolve_family
from ong.curvature.variance.closed_forms import ESTIMATORS, SECOND_ORDER, coordinate_variances, mixture_weight
from ong.curvature.variance.coordinates import INPUTS_A_CHUNK, mean_over_inputs
from ong.curvature.variance.families import Family
from ong.curvature.variance.full import derivatives, entry_variances
from ong.curvature.variance.network import open_network
from ong.errors import UserError

__all__ = ["draw_cotangents", "estimate_fisher", "estimate_fisher_diagonal"]

LABEL_ESTIMATORS = ("mc", "hessian", "mixture")


def draw_cotangents(
    family: Family,
    h: Tensor,
    estimator: str,
    draws: int,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Return ``[B, N, C]`` cotangents with mean outer product I: t−η for label estimators, else B ε.

    Args:
        family: the likelihood.
        h: outputs ``[B, C]``.
        estimator: its name.
        draws: N, ignored when labels are given.
        generator: source of the randomness.
        labels: ``[B, N, …]``, used in place of drawn ones by ``mc``, ``hessian`` and ``mixture``.

    Raises:
        UserError: labels outside the support, N < 1, or labels given to an estimator that has none.
    """
    check_name("estimator", estimator, ESTIMATORS)
    if estimator in LABEL_ESTIMATORS:
        found = family.sample(h, check_count("draws", draws), generator) if labels is None else labels
        if found.ndim < 2 or found.shape[1] == 0:
            raise UserError(f"labels of shape {tuple(found.shape)}; expected [inputs, draws, …] with at least one draw")
        return family.residual(h, found)
    if labels is not None:
        raise UserError(f"labels given to '{estimator}', which draws ε and no labels; use mc, hessian or mixture")
    shape = (h.shape[0], check_count("draws", draws), h.shape[1])
    if estimator == "gaussian":
        noise = torch.randn(shape, generator=generator, dtype=h.dtype, device=h.device)
    else:
        noise = torch.randint(0, 2, shape, generator=generator, device=h.device).to(h) * 2 - 1
    return family.apply_factor(h.unsqueeze(1), noise)


def estimate_fisher(
    model: nn.Module,
    inputs: Tensor,
    estimator: str = "rademacher",
    *,
    family: str | Family = "categorical",
    draws: int = 1,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
) -> Tensor:
    """Return an estimate of F, ``[P, P]``, for a small network; parameters in the model's order.

    ``exact``, ``mc``, ``rademacher`` and ``gaussian`` are positive semi-definite; ``hessian`` and
    ``mixture`` need not be.

    Args:
        model: see ``diagonal_variances``.
        inputs: ``[B, …]``.
        estimator: ``exact``, ``mc``, ``hessian``, ``mixture``, ``rademacher`` or ``gaussian``.
        family: the likelihood.
        draws: N at each input.
        generator: source of the randomness; torch's global one when None.
        labels: ``[B, N]`` classes or ``[B, N, C]`` reals to use in place of drawn ones.

    Raises:
        UserError: see ``draw_cotangents`` and ``derivatives``.
    """
    likelihood = resolve_family(family)
    check_name("estimator", estimator, ("exact", *ESTIMATORS))
    found = derivatives(model, inputs)
    h, J, H = found.outputs, found.jacobian, found.hessian
    exact = torch.einsum("xai,xab,xbj->xij", J, likelihood.fisher(h), J)
    if estimator == "exact":
        return exact.mean(0)
    u = draw_cotangents(likelihood, h, estimator, draws, generator, labels)
    scores = u @ J
    outer = scores.mT @ scores / u.shape[1]
    if estimator not in SECOND_ORDER:
        return outer.mean(0)
    second = exact - torch.einsum("xa,xaij->xij", u.mean(1), H)
    if estimator == "hessian":
        return second.mean(0)
    w = torch.stack([mixture_weight(*entry_variances(likelihood, *one)) for one in zip(h, J, H, strict=True)])
    return ((1 - w) * outer + w * second).mean(0)


def estimate_fisher_diagonal(
    model: nn.Module,
    inputs: Tensor,
    estimator: str = "rademacher",
    *,
    family: str | Family = "categorical",
    draws: int = 1,
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return an estimate of diag F by parameter name, for a network of any size.

    Arguments and errors are those of ``estimate_fisher``; cost and memory those of ``diagonal_variances``.
    """
    likelihood = resolve_family(family)
    check_name("estimator", estimator, ("exact", *ESTIMATORS))
    with open_network(model, inputs) as network:
        h = torch.cat([network.checked_outputs(x) for x in torch.split(inputs, INPUTS_A_CHUNK)])
        drawn = h.new_zeros(len(h), 1, 1)
        if estimator != "exact":
            drawn = draw_cotangents(likelihood, h, estimator, draws, generator, labels)

        def statistic(rows: slice, h: Tensor, J: Tensor, D: Tensor) -> dict[str, Tensor]:
            h, u = h.unsqueeze(1), drawn[rows]
            if estimator == "exact":
                return {"estimate": likelihood.second(h, J, J)}
            outer = (J @ _compressed(u).mT).square().sum(-1) / u.shape[1]
            if estimator not in SECOND_ORDER:
                return {"estimate": outer}
            second = likelihood.second(h, J, J) - (D @ u.mean(1).unsqueeze(-1)).squeeze(-1)
            if estimator == "hessian":
                return {"estimate": second}
            found = coordinate_variances(likelihood, h, J, D)
            w = mixture_weight(found["mc"], found["hessian"], found["cross"])
            return {"estimate": (1 - w) * outer + w * second}

        second_order = estimator in SECOND_ORDER
        return mean_over_inputs(network, inputs, statistic, {"estimate": 2}, second_order=second_order)["estimate"]


def _compressed(u: Tensor) -> Tensor:
    """Return at most C rows with the same uᵀu, so that cost does not grow with the number of draws."""
    return torch.linalg.qr(u, mode="r").R if u.shape[1] > u.shape[2] else u
