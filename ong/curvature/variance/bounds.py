"""Bounds on the variances: what the derivatives' norms and the likelihood's moments allow at most."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ong.curvature.variance.checks import check_count, check_name, resolve_family
from ong.curvature.variance.coordinates import mean_over_inputs
from ong.curvature.variance.families import Family
from ong.curvature.variance.full import derivatives
from ong.curvature.variance.network import open_network

__all__ = ["CovarianceBounds", "DiagonalBounds", "covariance_bounds", "diagonal_bounds"]


@dataclass(frozen=True)
class CovarianceBounds:
    """Bounds on the Frobenius norms ‖Cov Î₁‖_F and ‖Cov Î₂‖_F of the P² x P² covariances.

    Attributes:
        mc_spectral: ‖J‖₂⁴ ‖K − I⊗I‖_F.
        mc_frobenius: ‖J‖_F⁴ ‖K − I⊗I‖_F, the looser one.
        hessian_spectral: ‖H‖₂² ‖I‖_F with H unfolded to C x P².
        hessian_frobenius: ‖H‖_F² ‖I‖_F.
    """

    mc_spectral: float
    mc_frobenius: float
    hessian_spectral: float
    hessian_frobenius: float


@dataclass(frozen=True)
class DiagonalBounds:
    """Bounds by parameter name on V₁ (``mc``) and V₂ (``hessian``), shaped as the parameters."""

    mc: dict[str, Tensor]
    hessian: dict[str, Tensor]


def covariance_bounds(
    model: nn.Module, inputs: Tensor, *, family: str | Family = "categorical", draws: int = 1
) -> CovarianceBounds:
    """Return bounds on the norms of the covariance tensors (Soen & Sun, arXiv 2107.04205, theorems 4 and 6).

    For small networks. Several fixed inputs: the mean of the per-input bounds over N B (triangle inequality).
    Arguments and errors as for ``fisher_covariances``.
    """
    likelihood = resolve_family(family)
    check_count("draws", draws)
    found = derivatives(model, inputs)
    h, J, H = found.outputs, found.jacobian, found.hessian.flatten(2)
    outer = likelihood.outer_norms(h)[1]
    fisher = torch.linalg.matrix_norm(likelihood.fisher(h))
    scale = draws * len(inputs)

    def mean(values: Tensor) -> float:
        return float(values.mean()) / scale

    return CovarianceBounds(
        mc_spectral=mean(torch.linalg.matrix_norm(J, 2) ** 4 * outer),
        mc_frobenius=mean(torch.linalg.matrix_norm(J) ** 4 * outer),
        hessian_spectral=mean(torch.linalg.matrix_norm(H, 2) ** 2 * fisher),
        hessian_frobenius=mean(torch.linalg.matrix_norm(H) ** 2 * fisher),
    )


def diagonal_bounds(
    model: nn.Module,
    inputs: Tensor,
    *,
    family: str | Family = "categorical",
    draws: int = 1,
    moments: str = "exact",
) -> DiagonalBounds:
    """Return V₁ ≤ ‖∂_i h‖⁴ λ_max(K − I⊗I) and V₂ ≤ ‖∂²_i h‖² λ_max(I), over N B draws, at fixed inputs.

    Args:
        model: as for ``diagonal_variances``; cost and memory too.
        inputs: ``[B, …]``.
        family: the likelihood.
        draws: N at each input.
        moments: ``exact`` eigenvalues (C x C eigenproblem an input), or ``bound``: λ_max(I) ≤ min(max p, 1 −
            ‖p‖²) and λ_max(K − I⊗I) ≤ twice that for a categorical; 1 and 2, exact, for a Gaussian.

    Raises:
        UserError: see ``diagonal_variances``; an unknown ``moments``.
    """
    likelihood = resolve_family(family)
    check_count("draws", draws)
    check_name("moments", moments, ("exact", "bound"))

    def statistic(_rows: slice, h: Tensor, J: Tensor, D: Tensor) -> dict[str, Tensor]:
        if moments == "exact":
            outer = likelihood.outer_norms(h)[0]
            fisher = torch.linalg.eigvalsh(likelihood.fisher(h))[..., -1]
        else:
            outer, fisher = likelihood.outer_bound(h), likelihood.fisher_bound(h)
        return {
            "mc": J.square().sum(-1).square() * outer.unsqueeze(-1),
            "hessian": D.square().sum(-1) * fisher.unsqueeze(-1),
        }

    with open_network(model, inputs) as network:
        means = mean_over_inputs(network, inputs, statistic, {"mc": 4, "hessian": 4}, second_order=True)
    scale = draws * len(inputs)
    mc, second = ({n: value / scale for n, value in means[key].items()} for key in ("mc", "hessian"))
    return DiagonalBounds(mc, second)
