"""Full covariance tensors of Fisher estimates for small networks, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import hessian, jacrev

from ong.curvature.variance.checks import check_count, resolve_family
from ong.curvature.variance.closed_forms import mix_variances
from ong.curvature.variance.families import Family
from ong.curvature.variance.network import Network, open_network
from ong.errors import UserError

__all__ = [
    "Derivatives",
    "FisherCovariances",
    "derivatives",
    "entry_variances",
    "fisher_covariances",
    "label_covariances",
]

MOST_PARAMETERS = 64  # P⁴ numbers a tensor: 134 MB in float64
MOST_HESSIAN_NUMBERS = 2**26


@dataclass(frozen=True)
class Derivatives:
    """Outputs and their derivatives, parameters flattened in the order of ``names``.

    Attributes:
        names: parameter names; entry i of the parameter vector belongs to the name whose ``slices`` holds i.
        slices: positions of each parameter.
        outputs: h, ``[B, C]``.
        jacobian: ∂h_a/∂θ_i, ``[B, C, P]``.
        hessian: ∂²h_a/∂θ_i∂θ_j, ``[B, C, P, P]``.
    """

    names: tuple[str, ...]
    slices: dict[str, slice]
    outputs: Tensor
    jacobian: Tensor
    hessian: Tensor


@dataclass(frozen=True)
class FisherCovariances:
    """Covariance tensors ``[P, P, P, P]``: entry ijkl is Cov(F̂^{ij}, F̂^{kl}).

    Attributes:
        fisher: F, ``[P, P]``, mean over inputs.
        mc: Cov(Î₁, Î₁).
        hessian: Cov(Î₂, Î₂).
        cross: Cov(Î₁, Î₂).
        rademacher: of BᵀJ outer products with ε = ±1.
        gaussian: the same with ε ~ N(0, 1).
        mixture: ``[P, P]``, the entrywise variance of the entrywise best mixture.
    """

    fisher: Tensor
    mc: Tensor
    hessian: Tensor
    cross: Tensor
    rademacher: Tensor
    gaussian: Tensor
    mixture: Tensor


def derivatives(model: nn.Module, inputs: Tensor) -> Derivatives:
    """Return h, J and the full Hessian of every output. For small networks.

    Raises:
        UserError: the Hessians would need more than 2²⁶ numbers; or see ``open_network``.
    """
    with open_network(model, inputs, factor=False) as network:
        outputs = network.checked_outputs(inputs)
        names = tuple(network.parameters)
        flat = torch.cat([network.parameters[name].reshape(-1) for name in names])
        if outputs.numel() * len(flat) ** 2 > MOST_HESSIAN_NUMBERS:
            raise UserError(f"{len(flat)} parameters are too many for full Hessians; use the diagonal functions")
        slices = _slices(network)

        def at(theta: Tensor, x: Tensor) -> Tensor:
            entries = {name: theta[slices[name]].view_as(network.parameters[name]) for name in names}
            return network.outputs(x[None], entries)[0]

        J = torch.stack([jacrev(at)(flat, x) for x in inputs])
        H = torch.stack([hessian(at)(flat, x) for x in inputs])
    return Derivatives(names, slices, outputs, J, H)


def fisher_covariances(
    model: nn.Module,
    inputs: Tensor,
    *,
    family: str | Family = "categorical",
    draws: int = 1,
    sampled_inputs: bool = False,
) -> FisherCovariances:
    """Return the covariance tensors of every estimator of the full Fisher, averaged over inputs and draws.

    Args and scaling are those of ``diagonal_variances``: fixed inputs divide by N B; sampled inputs add
    Cov_x[F(x)] and divide by N.

    Raises:
        UserError: more than 64 parameters (the tensors hold P⁴ numbers); or see ``diagonal_variances``.
    """
    likelihood = resolve_family(family)
    check_count("draws", draws)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if size > MOST_PARAMETERS:
        raise UserError(f"{size} parameters; covariance tensors need at most {MOST_PARAMETERS}: use diagonal_variances")
    found = derivatives(model, inputs)
    per_input = [
        label_covariances(likelihood, h, J, H)
        for h, J, H in zip(found.outputs, found.jacobian, found.hessian, strict=True)
    ]
    mean = {key: torch.stack([one[key] for one in per_input]).mean(0) for key in per_input[0]}
    fisher = mean.pop("fisher")
    scale = draws if sampled_inputs else draws * len(inputs)
    if sampled_inputs:
        deviations = torch.stack([one["fisher"] for one in per_input]) - fisher
        spread = torch.einsum("xij,xkl->ijkl", deviations, deviations) / len(inputs)
        mean = {k: v + (torch.einsum("ijij->ij", spread) if k == "mixture" else spread) for k, v in mean.items()}
    return FisherCovariances(fisher, **{key: value / scale for key, value in mean.items()})


def label_covariances(family: Family, h: Tensor, J: Tensor, H: Tensor) -> dict[str, Tensor]:
    """Return F and the one-draw covariance tensors at one input; keys as in ``FisherCovariances``.

    - Cov(Î₁^{ij}, Î₁^{kl}) = J_ai J_bj J_ck J_dl (K_abcd − I_ab I_cd)
    - Cov(Î₂^{ij}, Î₂^{kl}) = H_aij H_bkl I_ab
    - Cov(Î₁^{ij}, Î₂^{kl}) = −J_ai J_bj H_ckl κ_abc
    - Gaussian ε: F_ik F_jl + F_il F_jk; ε = ±1: that less 2 Σ_c b_ci b_cj b_ck b_cl with b = BᵀJ.

    Args:
        family: the likelihood.
        h: ``[C]``.
        J: ``[C, P]``.
        H: ``[C, P, P]``.
    """
    I = family.fisher(h)  # noqa: E741  the formula's letter
    classes, size = J.shape
    fisher = J.T @ I @ J
    excess = family.fourth_moment(h) - torch.einsum("ab,cd->abcd", I, I)
    pairs = torch.einsum("ai,bj->abij", J, J).reshape(classes**2, size**2)
    mc = (pairs.T @ excess.reshape(classes**2, classes**2) @ pairs).reshape([size] * 4)
    second = torch.einsum("ab,aij,bkl->ijkl", I, H, H)
    cross = -torch.einsum("abc,ai,bj,ckl->ijkl", family.third_cumulant(h), J, J, H)
    gaussian = torch.einsum("ik,jl->ijkl", fisher, fisher) + torch.einsum("il,jk->ijkl", fisher, fisher)
    b = family.factor(h).T @ J
    rademacher = gaussian - 2 * torch.einsum("ci,cj,ck,cl->ijkl", b, b, b, b)
    mixture = mix_variances(*entry_variances(family, h, J, H))
    return {
        "fisher": fisher,
        "mc": mc,
        "hessian": second,
        "cross": cross,
        "rademacher": rademacher,
        "gaussian": gaussian,
        "mixture": mixture,
    }


def entry_variances(family: Family, h: Tensor, J: Tensor, H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return Var(Î₁^{ij}), Var(Î₂^{ij}), Cov(Î₁^{ij}, Î₂^{ij}) of one draw, ``[P, P]`` each; P²C numbers."""
    left, right, second = J.T.unsqueeze(1), J.T.unsqueeze(0), H.permute(1, 2, 0)
    mc = family.fourth(h, left, right, left, right) - family.second(h, left, right).square()
    return mc.clamp(min=0), family.second(h, second, second), -family.third(h, left, right, second)


def _slices(network: Network) -> dict[str, slice]:
    found, start = {}, 0
    for name, value in network.parameters.items():
        found[name] = slice(start, start + value.numel())
        start += value.numel()
    return found
