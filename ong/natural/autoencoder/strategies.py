"""The ways to train an autoencoder, by name: an optimizer, its options, its batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ong.errors import UnknownNameError, UserError
from ong.natural.online import NaturalGradient

__all__ = ["STRATEGIES", "Strategy", "strategy_of"]

Make = Callable[..., Optimizer]


@dataclass(frozen=True)
class Strategy:
    """How to train.

    Attributes:
        name: the name.
        summary: a line for people.
        batch_size: examples a step.
        make: builds the optimizer from the model, the likelihood's name, a seed, and the options.
        options: the optimizer's.
        grid: values of options that tuning tries, on seeds that no report shows.
    """

    name: str
    summary: str
    batch_size: int
    make: Make
    options: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def changed(self, batch_size: int | None = None, **options: Any) -> Strategy:
        """Return the strategy with other options.

        Raises:
            UnknownNameError: an option that the strategy does not name.
            UserError: a batch size below 1.
        """
        for name in options:
            if name not in self.options:
                raise UnknownNameError(f"option of '{self.name}'", name, self.options)
        size = self.batch_size if batch_size is None else batch_size
        if size < 1:
            raise UserError(f"batch_size must be at least 1; got {size}")
        return replace(self, batch_size=size, options={**self.options, **options})

    def optimizer(self, model: nn.Module, likelihood: str, seed: int) -> Optimizer:
        """Return a new optimizer for the model."""
        return self.make(model, likelihood, seed, **self.options)


def _sgd(model: nn.Module, likelihood: str, seed: int, **options: Any) -> Optimizer:
    return torch.optim.SGD(model.parameters(), **options)


def _adam(model: nn.Module, likelihood: str, seed: int, **options: Any) -> Optimizer:
    return torch.optim.Adam(model.parameters(), **options)


def _natural(model: nn.Module, likelihood: str, seed: int, **options: Any) -> Optimizer:
    return NaturalGradient(model, likelihood=likelihood, seed=seed, **options)


def _soap(model: nn.Module, likelihood: str, seed: int, **options: Any) -> Optimizer:
    try:
        package = import_module("pytorch_optimizer")
    except ImportError:
        raise UserError(
            "strategy 'soap' needs the package pytorch-optimizer; install it: pip install pytorch-optimizer"
        ) from None
    made: Optimizer = package.SOAP(model.parameters(), **options)
    return made


_PAPER = {"lr": 1.0, "momentum": 0.0, "average": 0.0, "balanced": False, "ekfac": False}
_FAST = {
    "lr": 0.25,
    "momentum": 0.5,
    "average": 0.95,
    "balanced": True,
    "ekfac": False,
    "factors_every": 3,
    "refresh_every": 6,
    "adapt_every": 3,
}

STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "sgd",
            "gradient descent as the paper ran it: batch 20, rate α/20, α of a grid",
            20,
            _sgd,
            {"lr": 0.04 / 20},
            {"lr": (0.04 / 20, 0.06 / 20, 0.08 / 20)},
        ),
        Strategy(
            "sgd-momentum",
            "gradient descent with momentum .9",
            20,
            _sgd,
            {"lr": 0.0002, "momentum": 0.9},
            {"lr": (0.0001, 0.0002, 0.0004)},
        ),
        Strategy(
            "adam",
            "Adam",
            100,
            _adam,
            {"lr": 1e-3, "betas": (0.9, 0.999)},
            {"lr": (5e-4, 1e-3, 2e-3), "batch_size": (50, 100, 200)},
        ),
        Strategy("ngd", "natural gradient as in the paper: K-FAC over the depth", 1000, _natural, _PAPER),
        Strategy("ngd-ekfac", "the same with EKFAC's eigenvalues", 1000, _natural, {**_PAPER, "ekfac": True}),
        Strategy(
            "ngd-fast",
            "K-FAC over the depth with averages, momentum and inverses kept for some steps",
            500,
            _natural,
            _FAST,
            {"lr": (0.2, 0.25, 0.35), "momentum": (0.3, 0.5)},
        ),
        Strategy(
            "soap",
            "SOAP of the package pytorch-optimizer: Adam in Shampoo's eigenbases",
            500,
            _soap,
            {"lr": 3e-3, "betas": (0.95, 0.95), "weight_decay": 0.0, "precondition_frequency": 10},
            {"lr": (1e-3, 3e-3, 1e-2), "batch_size": (250, 500, 1000)},
        ),
    )
}
"""The strategies by name. Options are those of the paper's net on Fashion-MNIST."""


def strategy_of(strategy: str | Strategy) -> Strategy:
    """Return a strategy by name, or the one given.

    Raises:
        UnknownNameError: no such strategy.
    """
    if isinstance(strategy, Strategy):
        return strategy
    if strategy not in STRATEGIES:
        raise UnknownNameError("strategy", strategy, STRATEGIES)
    return STRATEGIES[strategy]
