"""What the recipes of autoencoder benchmarks hold."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from ong.experiments.schema import MOST_EPOCHS, BenchmarkRecipe, Buildable, StrategyRecipe, Strict

__all__ = ["AutoencoderBenchmark", "AutoencoderStrategy", "PassesRecipe", "why_not"]


class PassesRecipe(Strict):
    """Passes over the training images, the same for every strategy; examples a step are the strategy's."""

    epochs: int = Field(ge=0, le=MOST_EPOCHS)


class AutoencoderBenchmark(BenchmarkRecipe):
    """Images that a tanh net with a narrow middle learns to reproduce.

    Attributes:
        dataset: the images.
        net: ``paper``, ``classic``, or widths from inputs to outputs.
        likelihood: ``gaussian`` (½‖x − h‖² of centred images) or ``bernoulli`` (cross-entropy, outputs are logits).
        training: the passes.
    """

    kind: Literal["autoencoder"]
    dataset: str
    net: str | list[int] = "paper"
    likelihood: Literal["gaussian", "bernoulli"] = "gaussian"
    training: PassesRecipe


class AutoencoderStrategy(StrategyRecipe):
    """An optimizer and the number of examples a step.

    Attributes:
        batch_size: examples a step.
        optimizer: :class:`ong.NaturalGradient`, or any optimizer that steps along ``.grad``.
        package: what to install for the optimizer, where it comes neither with ong nor with torch.
    """

    batch_size: int = Field(ge=1)
    optimizer: Buildable
    package: str | None = None


def why_not(benchmark: AutoencoderBenchmark, strategy: AutoencoderStrategy) -> str | None:
    """Return why a strategy cannot run, with the remedy, or None: its optimizer's package is not installed."""
    module = strategy.optimizer.use.partition(":")[0].partition(".")[0]
    if strategy.package is None or find_spec(module) is not None:
        return None
    return f"its optimizer needs the package {strategy.package}; install it: pip install {strategy.package}"
