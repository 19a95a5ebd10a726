"""Where the paper's form fails: the share of random square networks that reach their teacher."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ong.natural.deep_linear.history import DivergedError
from ong.natural.deep_linear.network import DeepLinearNetwork, check_dims
from ong.natural.deep_linear.problem import LinearProblem
from ong.natural.deep_linear.training import InexactFormWarning, train
from ong.natural.deep_linear.trajectories import blow_up_time

__all__ = ["FAILURE_CASES", "ConvergenceShare", "convergence_share", "where_it_fails"]

FAILURE_CASES: tuple[tuple[tuple[int, ...], str], ...] = (
    ((1, 1, 1), "ngd-paper"),
    ((4, 4, 4), "ngd-paper"),
    ((1, 1, 1), "ngd-min-norm"),
    ((4, 4, 4), "ngd-min-norm"),
    ((1, 2, 1), "ngd-paper"),
    ((4, 5, 4), "ngd-paper"),
)
"""Square nets with the paper's form, then the two remedies: the minimum-norm form, one extra hidden unit."""


@dataclass(frozen=True)
class ConvergenceShare:
    """How a strategy fared on random starts and teachers, a pair a seed.

    Attributes:
        dims: widths.
        strategy: name of the strategy.
        converged: for each seed, whether the excess loss fell to the tolerance.
        blow_up_times: for each seed, when the flow meets det W = 0 (infinity: never); None where that theory
            is silent: for other forms than the paper's and for widths that are not all the same.
    """

    dims: tuple[int, ...]
    strategy: str
    converged: tuple[bool, ...]
    blow_up_times: tuple[float, ...] | None

    @property
    def share(self) -> float:
        """The share of seeds that converged."""
        return sum(self.converged) / len(self.converged)

    @property
    def predicted_share(self) -> float | None:
        """The share of seeds whose flow never meets det W = 0."""
        if self.blow_up_times is None:
            return None
        return sum(math.isinf(time) for time in self.blow_up_times) / len(self.blow_up_times)


def convergence_share(
    dims: Sequence[int],
    strategy: str,
    seeds: Sequence[int],
    *,
    alpha: float = 0.1,
    steps: int = 120,
    tolerance: float = 1e-6,
) -> ConvergenceShare:
    """Train on the expected loss (C = I, Σ = I) from a random start to a random teacher, once a seed.

    Args:
        dims: widths.
        strategy: name of a strategy.
        seeds: one start and one teacher each, both N(0, 1/fan_in) weights of these widths.
        alpha: rate; small, so that steps follow the flow.
        steps: how many; the flow alone would leave (1 − α)^{2·steps} of the excess.
        tolerance: converged when the excess is at most this share of the first one.
    """
    widths = check_dims(dims)
    predictable = len(set(widths)) == 1 and strategy in (
        "ngd-paper",
        "ngd-any-width",
    )  # one step on square nets
    converged: list[bool] = []
    times: list[float] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        teacher = DeepLinearNetwork.random(widths, generator=generator).product
        start = DeepLinearNetwork.random(widths, generator=generator)
        n_in, n_out = widths[0], widths[-1]
        problem = LinearProblem(torch.eye(n_in, dtype=teacher.dtype), teacher, torch.eye(n_out, dtype=teacher.dtype))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InexactFormWarning)
            try:
                _, history = train(start, problem, strategy, alpha=alpha, epochs=steps)
            except DivergedError:
                converged.append(False)
            else:
                converged.append(history.epochs[-1].excess <= tolerance * history.epochs[0].excess)
        if predictable:
            times.append(blow_up_time(start.product, teacher))
    return ConvergenceShare(widths, strategy, tuple(converged), tuple(times) if predictable else None)


def where_it_fails(seeds: Sequence[int] = range(40)) -> list[ConvergenceShare]:
    """Run :data:`FAILURE_CASES`, for a report: a table of widths, strategy, measured and predicted share."""
    return [convergence_share(dims, strategy, seeds) for dims, strategy in FAILURE_CASES]
