"""From recipes to a trainer: data, net and optimizer of an autoencoder run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ong.errors import UserError
from ong.experiments.autoencoder.schema import AutoencoderBenchmark, AutoencoderStrategy
from ong.experiments.build import build, build_optimizer, resolve
from ong.experiments.schema import Buildable
from ong.experiments.seeds import derived_seed
from ong.natural.autoencoder import AutoencoderData, Trainer, make_net, prepare, widths_of
from ong.natural.online import NaturalGradient
from ong.streams import load_dataset

__all__ = ["load_data", "make_trainer"]


def load_data(benchmark: AutoencoderBenchmark, data_root: str | Path | None = None) -> AutoencoderData:
    """Return a benchmark's images, prepared for its likelihood.

    Raises:
        UserError: an unknown data set or net, or a net that does not fit the images.
    """
    images: Any = load_dataset(benchmark.dataset, data_root)
    if images.channels != 1:
        raise UserError(f"'{benchmark.dataset}' has images of {images.channels} channels; autoencoders take grey ones")
    data = prepare(images, benchmark.likelihood)
    widths = widths_of(benchmark.net)
    if widths[0] != data.pixels:
        middle = ",".join(map(str, widths[1:-1]))
        raise UserError(
            f"net '{benchmark.net}' has {widths[0]} inputs, but images of '{benchmark.dataset}' have {data.pixels} "
            f"pixels; give widths that fit, such as --set net=[{data.pixels},{middle},{data.pixels}]"
        )
    return data


def make_trainer(
    benchmark: AutoencoderBenchmark, strategy: AutoencoderStrategy, data: AutoencoderData, seed: int
) -> Trainer:
    """Return a trainer at its start.

    Initial weights and the order of the images depend on the seed alone, so they are the same for every strategy.

    Raises:
        UserError: an optimizer that cannot be built, or more examples a step than there are.
    """
    model = make_net(benchmark.net, generator=torch.Generator().manual_seed(derived_seed(seed, 0)))
    optimizer = _optimizer(strategy.optimizer, model, benchmark.likelihood, derived_seed(seed, 2))
    return Trainer(model, data, optimizer, batch_size=strategy.batch_size, seed=derived_seed(seed, 1))


def _optimizer(recipe: Buildable, model: nn.Module, likelihood: str, seed: int) -> Optimizer:
    if not issubclass(resolve(recipe.use, Optimizer, "optimizer"), NaturalGradient):
        return build_optimizer(recipe, model)
    if "likelihood" in recipe.options:
        raise UserError("optimizer.likelihood is the benchmark's; set 'likelihood' there")
    made: Optimizer = build(recipe, Optimizer, "optimizer", model, likelihood=likelihood, seed=seed)
    return made
