"""Variances of estimates of the Fisher diagonal, in closed form, for a network of any size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ong.curvature.variance.checks import check_count, check_name, resolve_family
from ong.curvature.variance.closed_forms import ESTIMATORS, SECOND_ORDER, coordinate_variances
from ong.curvature.variance.coordinates import mean_over_inputs
from ong.curvature.variance.families import Family
from ong.curvature.variance.network import open_network
from ong.errors import UserError

__all__ = ["DiagonalVariances", "diagonal_variances"]


@dataclass(frozen=True)
class DiagonalVariances:
    """Closed forms by parameter name, each tensor shaped as its parameter.

    Attributes:
        fisher: diag F, mean over inputs.
        variance: by estimator, the variance of its estimate of ``fisher``.
        cross: Cov(Î₁, Î₂), present when the mixture was asked for.
        draws: label draws N.
        inputs: number of inputs.
        sampled_inputs: whether inputs are drawn with the labels.
    """

    fisher: dict[str, Tensor]
    variance: dict[str, dict[str, Tensor]]
    cross: dict[str, Tensor]
    draws: int
    inputs: int
    sampled_inputs: bool

    def layers(self) -> dict[str, list[str]]:
        """Return parameter names by layer (a module: its weight and bias together)."""
        groups: dict[str, list[str]] = {}
        for name in self.fisher:
            groups.setdefault(name.rpartition(".")[0] or name, []).append(name)
        return groups

    def layer_variance(self, estimator: str) -> dict[str, float]:
        """Return Σ_i Var_i over each layer, the expected squared error ‖diag F̂ − diag F‖² there."""
        by_name = self.variance[check_name("estimator", estimator, self.variance)]
        return {layer: _total(by_name, names) for layer, names in self.layers().items()}

    def layer_fisher_norm(self) -> dict[str, float]:
        """Return ‖diag F‖₂ of each layer."""
        squares = {name: value.square() for name, value in self.fisher.items()}
        return {layer: float(_total(squares, names) ** 0.5) for layer, names in self.layers().items()}

    def relative_std(self, estimator: str) -> dict[str, float]:
        """Return sqrt(Σ_i Var_i)/‖diag F‖₂ by layer, a root-mean-square relative error; NaN if diag F = 0."""
        norms = self.layer_fisher_norm()
        totals = self.layer_variance(estimator)
        return {layer: total**0.5 / norms[layer] if norms[layer] else float("nan") for layer, total in totals.items()}


def diagonal_variances(
    model: nn.Module,
    inputs: Tensor,
    *,
    family: str | Family = "categorical",
    estimators: Sequence[str] = ESTIMATORS,
    draws: int = 1,
    sampled_inputs: bool = False,
) -> DiagonalVariances:
    """Return the variances of Fisher-diagonal estimates from ``draws`` label draws.

    With V(x) the one-draw variance at x (``closed_forms``) and B inputs:

    - fixed inputs, N draws at each: Var = E_x[V(x)] / (N B);
    - inputs sampled with the labels, N pairs in all: Var = (E_x[V(x)] + Var_x[F(x)]) / N.

    The mixture's weight is the best one for each input and coordinate. Memory is O(parameters). Cost per
    input: for Linear layers on vectors, C backward passes, and for ``hessian`` and ``mixture`` d_out x C
    small ones a layer; other parameters need C backward passes, and for those two one pass a parameter
    (slow, exact). Variances are fourth powers of gradients: give a float64 model if gradients are below 1e-9.

    Args:
        model: returns ``[inputs, C]``; run in evaluation mode and left as found. Only trainable parameters
            count.
        inputs: ``[B, …]``.
        family: ``categorical``, ``gaussian`` or a ``Family``.
        estimators: among ``mc``, ``hessian``, ``mixture``, ``rademacher``, ``gaussian``.
        draws: N.
        sampled_inputs: see above.

    Raises:
        UserError: unknown names, N < 1, no inputs, NaN or infinite outputs.
    """
    likelihood = resolve_family(family)
    if not estimators:
        raise UserError(f"no estimators given; known: {', '.join(ESTIMATORS)}")
    for name in estimators:
        check_name("estimator", name, ESTIMATORS)
    check_count("draws", draws)

    def statistic(_rows: slice, h: Tensor, J: Tensor, D: Tensor) -> dict[str, Tensor]:
        found = coordinate_variances(likelihood, h.unsqueeze(1), J, D, estimators)
        return {**found, "square": found["fisher"].square()}

    with open_network(model, inputs) as network:
        degrees = dict.fromkeys(estimators, 4) | {"fisher": 2, "square": 4}
        if "mixture" in estimators:
            degrees["cross"] = 4
        second_order = not SECOND_ORDER.isdisjoint(estimators)
        means = mean_over_inputs(network, inputs, statistic, degrees, second_order=second_order)
    fisher, square = means.pop("fisher"), means.pop("square")
    spread = {n: (square[n] - fisher[n].square()).clamp(min=0) if sampled_inputs else 0.0 for n in fisher}
    scale = draws if sampled_inputs else draws * len(inputs)
    scaled = {key: {n: (v + spread[n]) / scale for n, v in by_name.items()} for key, by_name in means.items()}
    cross = scaled.pop("cross", {})
    return DiagonalVariances(fisher, scaled, cross, draws, len(inputs), sampled_inputs)


def _total(by_name: Mapping[str, Tensor], names: Sequence[str]) -> float:
    return float(sum(by_name[name].to(torch.promote_types(by_name[name].dtype, torch.float32)).sum() for name in names))
