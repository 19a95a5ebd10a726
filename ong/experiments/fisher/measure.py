"""What a Fisher-variance run measures of a net: predicted and measured errors, bounds, draws, EKFAC."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature import EKFAC, EigenBlock, find_blocks, record
from ong.curvature.ekfac import MOST_SAMPLES
from ong.curvature.fisher import cotangents
from ong.curvature.squares import rotated_squares
from ong.curvature.variance import (
    ESTIMATORS,
    DiagonalVariances,
    compare_variances,
    diagonal_bounds,
    diagonal_variances,
    draws_from_variances,
    measured_relative_std,
)
from ong.experiments.fisher.schema import MeasureRecipe

__all__ = ["draws_table", "ekfac_rows", "layer_rows"]


def layer_rows(
    model: nn.Module, inputs: Tensor, family: str, recipe: MeasureRecipe, seed: int
) -> tuple[dict[str, dict[str, Any]], DiagonalVariances]:
    """Return, layer by layer, each estimator's relative standard deviation, and the variances it comes from.

    A layer has ``predicted``, ``measured`` and ``standard_error`` by estimator, ``bound`` of ``mc`` and ``hessian``
    (as a relative standard deviation too), ``best`` and ``hessian_share``, see
    :class:`ong.fisher_variance.LayerComparison`.
    """
    found = diagonal_variances(model, inputs, family=family)
    bounds = diagonal_bounds(model, inputs, family=family)
    generator = torch.Generator().manual_seed(seed)
    measured = measured_relative_std(model, inputs, family=family, repeats=recipe.repeats, generator=generator)
    predicted = {name: found.relative_std(name) for name in ESTIMATORS}
    norms, compared = found.layer_fisher_norm(), compare_variances(found)
    rows: dict[str, dict[str, Any]] = {}
    for layer, names in found.layers().items():

        def relative(by_name: dict[str, Tensor], names: list[str] = names, norm: float = norms[layer]) -> float:
            total = sum(float(by_name[name].sum()) for name in names)
            return math.sqrt(total) / norm if norm else math.nan

        rows[layer] = {
            "predicted": {name: predicted[name][layer] for name in ESTIMATORS},
            "measured": {name: measured[layer][name].relative_std for name in ESTIMATORS},
            "standard_error": {name: measured[layer][name].standard_error for name in ESTIMATORS},
            "bound": {"mc": relative(bounds.mc), "hessian": relative(bounds.hessian)},
            "best": compared[layer].best,
            "hessian_share": compared[layer].hessian_share,
        }
    return rows, found


def draws_table(found: DiagonalVariances, recipe: MeasureRecipe) -> list[dict[str, Any]]:
    """Return, for each wanted relative error, how many label draws an input each estimator takes in the worst layer."""
    return [
        {"relative_error": error, "draws": {name: draws_from_variances(found, name, error) for name in ESTIMATORS}}
        for error in recipe.relative_errors
    ]


def ekfac_rows(model: nn.Module, inputs: Tensor, recipe: MeasureRecipe, seed: int) -> list[dict[str, Any]]:
    """Return what ``EKFAC(relative_error=…)`` chose and reached, for the Fisher of a categorical likelihood.

    ``measured`` is the root-mean-square over repeats of ‖Λ̂ − Λ‖/‖Λ‖ in the worst layer, Λ the exact eigenvalues in the
    basis that the draws gave.
    """
    rows = []
    for error in recipe.relative_errors if recipe.ekfac_repeats else []:
        squares: dict[str, float] = {}
        samples = 0
        for repeat in range(recipe.ekfac_repeats):
            generator = torch.Generator().manual_seed(seed + repeat)
            try:
                ekfac = EKFAC.fit(model, [(inputs,)], relative_error=error, generator=generator)
            except ValueError:
                break
            samples = ekfac.samples_used
            for name, square in _squared_errors(ekfac, model, inputs).items():
                squares[name] = squares.get(name, 0.0) + square / recipe.ekfac_repeats
        worst = math.sqrt(max(squares.values())) if squares else None
        rows.append({"relative_error": error, "samples": samples or f"> {MOST_SAMPLES}", "measured": worst})
    return rows


def _squared_errors(ekfac: EKFAC, model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """Return ‖Λ̂ − Λ‖²/‖Λ‖² by layer."""
    exact = {name: torch.zeros_like(block.eigenvalues) for name, block in ekfac.blocks.items()}
    with record(find_blocks(model)) as tape:
        logits = model(inputs)
    for u in cotangents(logits, "exact"):
        for name, factors in tape.factors(logits, u).items():
            block = ekfac.blocks[name]
            assert isinstance(block, EigenBlock)
            exact[name] += rotated_squares(factors, block.inputs_basis, block.outputs_basis)[0] / len(inputs)
    return {
        name: float((block.eigenvalues - exact[name]).square().sum() / exact[name].square().sum())
        for name, block in ekfac.blocks.items()
    }
