"""What a run says of theory: exactness, the rate of small steps, where a form fails."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch

from ong.experiments.deep_linear.schema import TheoryRecipe
from ong.natural.deep_linear import (
    DeepLinearNetwork,
    DivergedError,
    LinearProblem,
    Strategy,
    blow_up_time,
    convergence_share,
    discrete_rate,
    exactness,
    natural_gradient_residual,
    train,
)

__all__ = ["convergence_rows", "exactness_row", "theory_rows"]

SMALL_NETS = ((1, 1, 1), (4, 4, 4), (1, 2, 1), (4, 5, 4))
"""Square nets, then the same with one more hidden unit."""
RATE_STEPS = 20
"""The measured rate is the geometric mean over so many last steps above rounding."""


def exactness_row(strategy: Strategy, network: DeepLinearNetwork, problem: LinearProblem) -> dict[str, Any] | None:
    """Return whether a form is exact for these widths, why, and its residual at the start; None without a form."""
    if strategy.form is None:
        return None
    verdict = exactness(strategy.form, network.dims, input_rank=problem.input_rank)
    residual = natural_gradient_residual(network, problem, strategy.step(network, problem))
    return {"form": strategy.form, "exact": verdict.exact, "reason": verdict.reason, "residual": residual}


def theory_rows(
    strategy: Strategy, network: DeepLinearNetwork, problem: LinearProblem, recipe: TheoryRecipe, seed: int
) -> dict[str, Any] | None:
    """Take small undamped steps on the expected loss; None for steps that are no natural gradient.

    They start from orthogonal weights: the product of sixteen Gaussian matrices has a condition number of 1e15, and
    what is seen then is rounding.

    Args:
        strategy: the step.
        network: what tells the widths.
        problem: the expected loss.
        recipe: α and the number of steps.
        seed: of the start.

    Returns:
        ``excess`` before and after every step; ``residual``, the largest ‖Fv + ∇‖/‖∇‖ while the excess fell;
        ``measured_rate`` beside ``predicted_rate`` = (1 − α)²; ``stopped``, why it broke off; ``blow_up_step``, where
        the flow of a square net meets det W = 0; ``first_rise``, the first step that raised the excess.
        The rate is that of the last steps, or of the first half of those
        before a predicted blow-up.
    """
    if strategy.form is None:
        return None
    network = orthogonal(network.dims, torch.Generator().manual_seed(seed))
    stopped = None
    try:
        _, history = train(network, problem, strategy.name, alpha=recipe.alpha, epochs=recipe.steps)
    except DivergedError as error:
        history, stopped = error.history, str(error)
    excess = [record.excess for record in history.epochs]
    rise = next((step for step in range(1, len(excess)) if excess[step] > excess[step - 1]), None)
    residuals = [record.residual for record in history.epochs[1:rise] if record.residual is not None]
    blow_up = math.inf
    if len(set(network.dims)) == 1 and strategy.form != "minimum-norm":
        blow_up = blow_up_time(network.product, problem.teacher) / recipe.alpha
    half = int(min(blow_up, len(excess) - 1) / 2)
    if stopped is None and math.isinf(blow_up):
        rate = history.measured_rate(RATE_STEPS)
    else:
        rate = (excess[half] / excess[0]) ** (1 / half) if half else None
    return {
        "alpha": recipe.alpha,
        "excess": excess,
        "residual": max(residuals, default=None),
        "measured_rate": rate,
        "predicted_rate": discrete_rate(recipe.alpha),
        "stopped": stopped,
        "blow_up_step": None if math.isinf(blow_up) else blow_up,
        "first_rise": rise,
    }


def orthogonal(dims: Sequence[int], generator: torch.Generator) -> DeepLinearNetwork:
    """Return a network of random weights with orthonormal rows or columns."""
    weights = []
    for inputs, outputs in pairwise(dims):
        size = max(inputs, outputs)
        square = torch.randn(size, size, generator=generator, dtype=torch.float64)
        weights.append(torch.linalg.qr(square).Q[:outputs, :inputs])
    return DeepLinearNetwork(tuple(weights))


def convergence_rows(strategy: Strategy, count: int, seed: int) -> list[dict[str, Any]]:
    """Return, for each small net, from how many of ``count`` random starts the form reaches a random teacher.

    Every run's seed has starts of its own, so that the runs of several seeds add up.
    """
    if strategy.form is None or not count:
        return []
    found = (convergence_share(dims, strategy.name, range(seed * count, (seed + 1) * count)) for dims in SMALL_NETS)
    return [
        {
            "dims": list(share.dims),
            "converged": sum(share.converged),
            "starts": count,
            "predicted": None
            if share.blow_up_times is None
            else sum(math.isinf(moment) for moment in share.blow_up_times),
        }
        for share in found
    ]
