"""What the recipes of deep linear benchmarks hold."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ong.experiments.schema import MOST_EPOCHS, BenchmarkRecipe, StrategyRecipe, Strict

__all__ = ["DeepLinearBenchmark", "DeepLinearStrategy", "TheoryRecipe", "why_not"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class TheoryRecipe(Strict):
    """Steps on the expected loss, undamped and small, whose rate theory predicts as (1 − α)²."""

    alpha: Positive = 0.05
    steps: int = Field(default=100, ge=1)


class DeepLinearBenchmark(BenchmarkRecipe):
    """A random teacher of the student's own widths, correlated inputs, Gaussian output noise.

    Attributes:
        setting: ``net1``, ``net2`` or ``net3`` of the authors' code.
        dims: widths n_0, …, n_L in place of a setting.
        noise: standard deviation of every output's noise.
        input_rank: rank of the inputs' covariance, full when not given.
        train: number of training examples.
        test: number of test examples.
        target: test loss that counts as reached; 1.1 times the floor when not given.
        theory: the run on the expected loss.
        convergence_seeds: random starts a run tries small square nets from, to show where a form fails.
    """

    kind: Literal["deep-linear"]
    setting: str | None = None
    dims: list[int] | None = None
    noise: float = 1e-3
    input_rank: int | None = None
    train: int = Field(default=10_000, ge=1)
    test: int = Field(default=1_000, ge=1)
    target: Positive | None = None
    theory: TheoryRecipe = TheoryRecipe()
    convergence_seeds: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_architecture(self) -> Self:
        if self.dims is not None:
            self.setting = None
        elif self.setting is None:
            raise ValueError("give a setting (net1, net2, net3) or dims, a list of widths")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """n_0, …, n_L.

        Raises:
            UserError: an unknown setting, or widths that describe no network.
        """
        from ong.natural.deep_linear import dims_of

        return dims_of(self.dims if self.dims is not None else str(self.setting))


class DeepLinearStrategy(StrategyRecipe):
    """A step, its rate, and the passes over the examples.

    Attributes:
        step: a name of :data:`ong.deep_linear.STRATEGIES`.
        rates: rates α to train with, each in full; the one of least test loss at any epoch is reported.
        epochs: passes over the training examples.
        batch_size: examples a step.
        damping: λ, the first one when it adapts.
        adapt_damping: Levenberg-Marquardt.
        damping_floor: the least λ when it adapts.
    """

    step: str
    rates: list[Positive] = Field(min_length=1)
    epochs: int = Field(ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(ge=1)
    damping: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    adapt_damping: bool = False
    damping_floor: Positive = 1e-12


def why_not(benchmark: DeepLinearBenchmark, strategy: DeepLinearStrategy) -> str | None:
    """Return why a step cannot be taken on nets of the benchmark's size, or None.

    Raises:
        UserError: an unknown setting, or widths that describe no network.
    """
    from ong.natural.deep_linear import MINIMUM_NORM_LIMIT, NEWTON_LIMIT

    widths = benchmark.widths
    unknowns = widths[0] * widths[-1]
    parameters = sum(a * b for a, b in pairwise(widths))
    if strategy.step == "ngd-min-norm" and unknowns > MINIMUM_NORM_LIMIT:
        return (
            f"the minimum-norm form solves for {widths[0]} × {widths[-1]} = {unknowns} unknowns at once "
            f"(limit {MINIMUM_NORM_LIMIT}); ngd-any-width is exact here too"
        )
    if strategy.step == "newton" and parameters > NEWTON_LIMIT:
        return f"the Hessian of {parameters} weights is not formed (limit {NEWTON_LIMIT}); give smaller dims"
    return None
