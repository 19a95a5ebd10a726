"""Choosing a learning rate from a grid, so that a baseline is compared at its best."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ong.errors import UserError
from ong.natural.deep_linear.history import DivergedError, History
from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.problem import LinearProblem
from ong.natural.deep_linear.settings import LinearData
from ong.natural.deep_linear.training import train

__all__ = ["tune_learning_rate"]


def tune_learning_rate(
    network: DeepLinearNetwork,
    problem: LinearProblem,
    rates: Sequence[float],
    *,
    strategy: str = "sgd",
    epochs: int,
    data: LinearData | None = None,
    batch_size: int = 20,
    seed: int = 0,
) -> tuple[float, dict[float, History]]:
    """Train once with each rate and return the one of least final test loss, and every history.

    A run that diverges counts as infinite; its history is the one so far. Every run shuffles alike.

    Raises:
        UserError: no rates, or every one diverges.
    """
    histories: dict[float, History] = {}
    finished: dict[float, float] = {}
    device = network.weights[0].device
    for rate in rates:
        shuffle = torch.Generator(device=device).manual_seed(seed)
        try:
            _, histories[rate] = train(
                network, problem, strategy, alpha=rate, epochs=epochs, data=data, batch_size=batch_size,
                generator=shuffle,
            )  # fmt: skip
        except DivergedError as error:
            histories[rate] = error.history
        else:
            finished[rate] = histories[rate].epochs[-1].test_loss
    if not finished:
        raise UserError(f"{strategy} diverges at every rate of {list(rates)}; give smaller ones")
    return min(finished, key=finished.__getitem__), histories
