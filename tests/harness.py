"""Small Avalanche runs on random tensors, with spies on the gradients."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import Tensor, nn

from ong.curvature import Vector, find_blocks
from ong.streams import TaskData, benchmark_from_tensors


class Spy(SupervisedPlugin):
    """Notes the gradient each time ``before_update`` comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Vector] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append({name: block.gradient() for name, block in find_blocks(strategy.model, "ignore").items()})


def tasks(
    count: int, examples: int = 24, width: int | tuple[int, ...] = 6, classes: int = 3, seed: int = 0, **options: Any
) -> Any:
    """A benchmark of random tensors, float64, the same for training and test."""
    generator = torch.Generator().manual_seed(seed)
    shape = (width,) if isinstance(width, int) else width
    parts = []
    for _ in range(count):
        x = torch.randn(examples, *shape, generator=generator, dtype=torch.float64)
        y = torch.randint(0, classes, (examples,), generator=generator)
        parts.append(TaskData(train=(x, y), test=(x, y)))
    return benchmark_from_tensors(parts, **options)


def learner(model: nn.Module, *plugins: Any, lr: float = 0.05, batch: int = 8, epochs: int = 1, **sgd: Any) -> Naive:
    """Avalanche's Naive with SGD and the plugins given."""
    return Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=lr, **sgd),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=batch,
        train_epochs=epochs,
        eval_mb_size=64,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
    )


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])
