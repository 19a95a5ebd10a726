"""What the recipes of Fisher-variance benchmarks hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ong.experiments.schema import MOST_EPOCHS, BenchmarkRecipe, StrategyRecipe, Strict

__all__ = ["FisherBenchmark", "FisherStrategy", "MeasureRecipe", "PassesRecipe"]

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class PassesRecipe(Strict):
    """Passes over the training images and images a step; the Fisher is measured before the first and after each."""

    epochs: int = Field(ge=0, le=MOST_EPOCHS)
    batch_size: int = Field(ge=1)


class MeasureRecipe(Strict):
    """How the estimates are measured.

    Attributes:
        inputs: training images that the Fisher is a mean over, with one label draw at each.
        repeats: estimates of which the standard deviation is taken.
        relative_errors: wanted ones, for the table of draws.
        ekfac_repeats: EKFACs that are made for each.
    """

    inputs: int = Field(default=64, ge=1)
    repeats: int = Field(default=1000, ge=4)
    relative_errors: list[Positive] = Field(default=[0.5, 0.2, 0.1, 0.05])
    ekfac_repeats: int = Field(default=24, ge=0)


class FisherBenchmark(BenchmarkRecipe):
    """A classifier of images, trained by SGD.

    Attributes:
        dataset: the images.
        hidden: widths of the hidden layers.
        family: the likelihood: ``categorical`` (trained on cross-entropy) or ``gaussian`` (on squared error).
        training: the passes.
        measure: the measurement.
    """

    kind: Literal["fisher"]
    dataset: str
    hidden: list[Annotated[int, Field(ge=1)]]
    family: Literal["categorical", "gaussian"] = "categorical"
    training: PassesRecipe
    measure: MeasureRecipe = MeasureRecipe()


class FisherStrategy(StrategyRecipe):
    """A net's activation, and the rate it is trained with."""

    activation: str
    lr: Positive = 0.1
