"""Measured variances beside the closed forms, with the measurement's own standard error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ong.curvature.variance.checks import check_count, check_name, resolve_family
from ong.curvature.variance.closed_forms import ESTIMATORS, SECOND_ORDER, coordinate_variances, mixture_weight
from ong.curvature.variance.coordinates import tensor_derivatives
from ong.curvature.variance.diagonal import diagonal_variances
from ong.curvature.variance.estimators import draw_cotangents
from ong.curvature.variance.families import Family
from ong.curvature.variance.network import open_network
from ong.errors import UnknownNameError, UserError

__all__ = ["MonteCarloCheck", "draw_values", "monte_carlo_check"]

VALUES_A_BLOCK = 2**22


@dataclass(frozen=True)
class MonteCarloCheck:
    """By parameter name, one entry a chosen coordinate.

    Attributes:
        measured: unbiased sample variance of the repeated estimates.
        standard_error: of ``measured``: sqrt((m₄ − m₂² (R−3)/(R−1))/R) from the sample's own moments.
        closed_form: what ``diagonal_variances`` says.
        mean: of the estimates; tends to F_ii.
        repeats: R.
    """

    measured: dict[str, Tensor]
    standard_error: dict[str, Tensor]
    closed_form: dict[str, Tensor]
    mean: dict[str, Tensor]
    repeats: int

    def z_scores(self) -> Tensor:
        """Return (measured − closed form)/standard error by coordinate; 0 where they agree to rounding."""
        scores = []
        for name, measured in self.measured.items():
            gap = measured - self.closed_form[name]
            rounding = 64 * torch.finfo(gap.dtype).eps * self.mean[name].square()
            scores.append(torch.where(gap.abs() <= rounding, torch.zeros_like(gap), gap / self.standard_error[name]))
        return torch.cat(scores)


def monte_carlo_check(
    model: nn.Module,
    inputs: Tensor,
    estimator: str,
    *,
    family: str | Family = "categorical",
    draws: int = 1,
    repeats: int = 10_000,
    coordinates: Mapping[str, Sequence[int]] | None = None,
    sampled_inputs: bool = False,
    generator: torch.Generator | None = None,
) -> MonteCarloCheck:
    """Repeat an estimate of diag F ``repeats`` times at chosen coordinates and measure its variance.

    The coordinates' derivatives are taken parameter by parameter, not through the layers' factors, so
    agreement checks those as well. Standard errors are themselves estimates: where a class has probability
    p, give more than 100/p draws.

    Args:
        model: see ``diagonal_variances``.
        inputs: ``[B, …]``.
        estimator: ``mc``, ``hessian``, ``mixture``, ``rademacher`` or ``gaussian``.
        family: the likelihood.
        draws: N.
        repeats: R ≥ 4.
        coordinates: flat positions by parameter name; every coordinate when None.
        sampled_inputs: draw inputs with the labels.
        generator: source of the randomness.

    Raises:
        UserError: unknown names or positions, R < 4; see ``diagonal_variances``.
    """
    likelihood = resolve_family(family)
    check_name("estimator", estimator, ESTIMATORS)
    check_count("draws", draws)
    check_count("repeats", repeats, 4)
    exact = diagonal_variances(
        model, inputs, family=likelihood, estimators=(estimator,), draws=draws, sampled_inputs=sampled_inputs
    )
    chosen = _chosen(exact.fisher, coordinates)
    second_order = estimator in SECOND_ORDER
    with open_network(model, inputs, factor=False) as network:
        h = network.checked_outputs(inputs)
        per_input = [
            [tensor_derivatives(network, x, name, at, second_order=second_order) for name, at in chosen.items()]
            for x in inputs
        ]
    J = torch.stack([torch.cat([pair[0] for pair in pairs]) for pairs in per_input])  # [B, n, C]
    D = torch.stack([torch.cat([pair[1] for pair in pairs]) for pairs in per_input])
    block = max(1, VALUES_A_BLOCK // (draws * max(J.shape[1], J.shape[2])))
    blocks = []
    for start in range(0, repeats, block):
        rounds = min(block, repeats - start)
        picks = torch.randint(len(inputs), (rounds, draws), generator=generator, device=h.device)
        total = h.new_zeros(rounds, J.shape[1])
        for x in range(len(inputs)):
            u = draw_cotangents(likelihood, h[x : x + 1], estimator, rounds * draws, generator)[0]
            values = draw_values(likelihood, estimator, h[x], J[x], D[x], u).view(rounds, draws, -1)
            weight = (picks == x).to(h) if sampled_inputs else torch.full_like(picks, 1, dtype=h.dtype) / len(inputs)
            total += (values * weight.unsqueeze(-1)).mean(1)
        blocks.append(total)
    estimates = torch.cat(blocks)
    mean = estimates.mean(0)
    deviations = estimates - mean
    measured = deviations.square().sum(0) / (repeats - 1)
    excess = deviations.pow(4).mean(0) - measured.square() * (repeats - 3) / (repeats - 1)
    sizes = [len(at) for at in chosen.values()]

    def split(values: Tensor) -> dict[str, Tensor]:
        return dict(zip(chosen, torch.split(values, sizes), strict=True))

    closed = {n: exact.variance[estimator][n].reshape(-1)[at] for n, at in chosen.items()}
    error = (excess.clamp(min=0) / repeats).sqrt()
    return MonteCarloCheck(split(measured), split(error), closed, split(mean), repeats)


def draw_values(family: Family, estimator: str, h: Tensor, J: Tensor, D: Tensor, u: Tensor) -> Tensor:
    """Return the estimate of each draw alone, ``[draws, n]``, from cotangents ``[draws, C]``."""
    squares = (u @ J.T).square()
    if estimator not in SECOND_ORDER:
        return squares
    second = family.second(h, J, J) - u @ D.T
    if estimator == "hessian":
        return second
    found = coordinate_variances(family, h, J, D, ("mc", "hessian", "mixture"))
    w = mixture_weight(found["mc"], found["hessian"], found["cross"])
    return (1 - w) * squares + w * second


def _chosen(fisher: Mapping[str, Tensor], coordinates: Mapping[str, Sequence[int]] | None) -> dict[str, Tensor]:
    if coordinates is None:
        return {name: torch.arange(value.numel(), device=value.device) for name, value in fisher.items()}
    if not coordinates:
        raise UserError("no coordinates given; expected flat positions by parameter name, or None for all")
    chosen = {}
    for name, positions in coordinates.items():
        if name not in fisher:
            raise UnknownNameError("parameter", name, fisher)
        size = fisher[name].numel()
        outside = [i for i in positions if not 0 <= i < size]
        if outside:
            raise UserError(f"position {outside[0]} of '{name}' is outside 0…{size - 1}")
        chosen[name] = torch.tensor(list(positions), dtype=torch.long, device=fisher[name].device)
    return chosen
