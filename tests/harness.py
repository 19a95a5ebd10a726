"""Small Avalanche runs on random tensors, with spies on the gradients."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from nets import mlp
from torch import Tensor, nn

from ong.curvature import Vector, find_blocks, inner, norm
from ong.plugins import OGD, GradientPlugin
from ong.plugins.directions import DirectionPlugin
from ong.projection import DirectionMemory, EuclideanProjection
from ong.streams import TaskData, benchmark_from_tensors


class Spy(SupervisedPlugin):
    """Notes the gradient each time ``before_update`` comes by."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Vector] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append({name: block.gradient() for name, block in find_blocks(strategy.model, "ignore").items()})


class Products(SupervisedPlugin):
    """Notes max |Gᵀv| of each update v that the plugin with a memory leaves, once the memory holds something."""

    coordinate_free = True

    def __init__(self) -> None:
        super().__init__()
        self.products: list[float] = []

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        (plugin,) = (p for p in strategy.plugins if isinstance(p, DirectionPlugin))
        if len(plugin.memory):
            update = {name: block.gradient() for name, block in plugin._blocks.items()}
            self.products.append(float(plugin.memory.dot(update).abs().max()))


class Skipping(SupervisedPlugin):
    """Leaves the last layer without a gradient in every other batch, as another task's head is."""

    coordinate_free = True

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations % 2:
            for parameter in strategy.model[-1].parameters():
                parameter.grad = None


def tasks(
    count: int,
    examples: int = 24,
    width: int | tuple[int, ...] = 6,
    classes: int = 3,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **options: Any,
) -> Any:
    """A benchmark of random tensors, the same for training and test."""
    generator = torch.Generator().manual_seed(seed)
    shape = (width,) if isinstance(width, int) else width
    parts = []
    for _ in range(count):
        x = torch.randn(examples, *shape, generator=generator, dtype=torch.float64).to(dtype)
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


class Raw(GradientPlugin):
    """Stores plain gradients and changes nothing: the G against which every method is measured."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        self.memory = DirectionMemory()
        self._store = OGD(directions_per_task=6, seed=seed)

    def _update(self, gradient: Any, strategy: Any) -> None:
        return None

    def _consolidate(self, strategy: Any) -> None:
        self._store._blocks = self._blocks
        self._store._consolidate(strategy)
        self.memory = self._store.memory

    @property
    def memory_bytes(self) -> int:
        return 0


def measured_steps(plugin: Any, seed: int, hidden: int, examples: int = 24) -> list[tuple[float, float]]:
    """(leak, descent cosine) of each step of the third task of a random net."""
    raw, before, after = Raw(seed), Spy(), Spy()
    model = mlp(6, hidden, 3, seed=seed)
    strategy = learner(model, before, raw, plugin, after)
    stream = tasks(3, examples=examples, seed=seed).train_stream
    for experience in stream[:2]:
        strategy.train(experience, eval_streams=[])
    projection = EuclideanProjection(DirectionMemory(raw.memory.rows))  # the third task will add its own
    before.seen.clear()
    after.seen.clear()
    strategy.train(stream[2], eval_streams=[])
    return [
        (projection.captured(v), float(inner(g, v) / (norm(g) * norm(v))))
        for g, v in zip(before.seen, after.seen, strict=True)
    ]


def with_and_without_a_break(make: Callable[[], Any], **options: Any) -> tuple[Tensor, Tensor]:
    """Weights after three tasks, without a break and with the plugin saved and loaded after the second."""
    stream = tasks(3, **options).train_stream
    model, plugin = mlp(6, 8, 3), make()
    strategy = learner(model, plugin)
    for experience in stream[:2]:
        strategy.train(experience, eval_streams=[])
    copied, resumed = copy.deepcopy(model), make()
    file = io.BytesIO()
    torch.save(plugin.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    final = []
    for net, part in ((model, plugin), (copied, resumed)):
        torch.manual_seed(0)
        learner(net, part).train(stream[2], eval_streams=[])
        final.append(weights(net))
    return final[0], final[1]
