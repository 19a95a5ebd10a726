"""Methods in plain loops, and what they compute written out in whole matrices: the oracle of the tests here."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from nets import flat, jacobian, mlp, unflat
from torch import Tensor, nn

from ong.curvature import EKFAC, Block, Metric, Vector
from ong.methods import Method
from ong.projection import DirectionMemory

Task = list[Tensor]
"""Inputs and labels."""

EXACT = {"rtol": 1e-9, "atol": 1e-11}
"""Of float64, where nothing ill-conditioned is inverted."""


def task(examples: int = 24, width: int | tuple[int, ...] = 6, classes: int = 3, seed: int = 0) -> Task:
    """Random examples in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (width,) if isinstance(width, int) else width
    x = torch.randn(examples, *shape, generator=generator, dtype=torch.float64)
    return [x, torch.randint(0, classes, (examples,), generator=generator)]


def tasks(count: int, seed: int = 0, **options: Any) -> list[Task]:
    """Several of them."""
    return [task(seed=100 * seed + k, **options) for k in range(count)]


def backward(model: nn.Module, data: Task) -> None:
    """Put the gradient of the mean cross-entropy into ``.grad``."""
    model.zero_grad()
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()


def parts(data: Task, batch: int) -> Iterator[Task]:
    """The batches of one epoch, in order."""
    for start in range(0, len(data[0]), batch):
        yield [part[start : start + batch] for part in data]


@dataclass(frozen=True)
class Step:
    """A step that the optimizer took, flat.

    Attributes:
        weights: θ before it.
        gradient: g of the loss.
        update: v = (θ before − θ after)/lr.
    """

    weights: Tensor
    gradient: Tensor
    update: Tensor


class Learner:
    """A model, SGD and a method in the loop of the README."""

    def __init__(
        self,
        method: Method,
        model: nn.Module | None = None,
        *,
        seed: int = 0,
        batch: int = 8,
        optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
        **options: Any,
    ) -> None:
        self.model = model if model is not None else mlp(6, 8, 3, seed=seed)
        self.optimizer = optimizer(self.model.parameters(), **{"lr": 0.05} | options)
        self.batch = batch
        self.method = method.attach(self.model, self.optimizer)
        self.steps: list[Step] = []

    @property
    def blocks(self) -> dict[str, Block]:
        return self.method.blocks

    @property
    def weights(self) -> Tensor:
        """θ in the blocks' layout."""
        return flat({name: block.values() for name, block in self.blocks.items()}, self.blocks)

    def step(self, data: Task) -> Step:
        """Take one step on a batch."""
        backward(self.model, data)
        before, gradient = self.weights, flat({n: b.gradient() for n, b in self.blocks.items()}, self.blocks)
        self.optimizer.step()
        step = Step(before, gradient, (before - self.weights) / self.optimizer.param_groups[0]["lr"])
        self.steps.append(step)
        return step

    def train(self, data: Task, epochs: int = 1) -> None:
        """Take the steps of a task that has begun."""
        for _ in range(epochs):
            for part in parts(data, self.batch):
                self.step(part)

    def learn(self, *stream: Task, epochs: int = 1) -> Learner:
        """Begin, train and end each task; the steps kept are the last task's."""
        for data in stream:
            self.method.begin_task(data)
            self.steps = []
            self.train(data, epochs)
            self.method.end_task()
        return self

    def begin(self, data: Task) -> Learner:
        """Begin a task, and do what is due before its first step."""
        self.method.begin_task(data)
        self.method.before_step()
        return self

    def update(self, vector: Tensor) -> Tensor:
        """``update(g)`` of a flat g."""
        return flat(self.method.update(unflat(vector, self.blocks)), self.blocks)

    def nudge(self, by: float = 0.1, seed: int = 7) -> None:
        """Move the weights, so that a pull has something to pull."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += by * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)

    def gradients(self, data: Task) -> Tensor:
        """∇h_y of each example at the present weights by torch.func, in columns."""
        rows = jacobian(self.model, data[0], self.blocks or None)
        return rows[torch.arange(len(data[1])), data[1]].T


def vectors(blocks: dict[str, Block], count: int = 3, seed: int = 11) -> Tensor:
    """Random flat vectors over blocks."""
    size = sum(rows * columns for rows, columns in (block.shape for block in blocks.values()))
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dense(apply: Callable[[Vector], Vector], blocks: dict[str, Block]) -> Tensor:
    """A linear map over blocks as a matrix, column by column."""
    size = sum(rows * columns for rows, columns in (block.shape for block in blocks.values()))
    units = torch.eye(size, dtype=torch.float64)
    return torch.stack([flat(apply(unflat(unit, blocks)), blocks) for unit in units], 1)


def fisher_matrix(ekfac: EKFAC, blocks: dict[str, Block]) -> Tensor:
    """F as a matrix."""
    return dense(Metric(ekfac, blocks, 1.0).curvature, blocks)


def columns(memory: DirectionMemory, blocks: dict[str, Block]) -> Tensor:
    """G as a matrix."""
    full = {name: torch.zeros(block.shape, dtype=torch.float64) for name, block in blocks.items()}
    units = torch.eye(len(memory), dtype=torch.float64)
    return torch.stack([flat(full | memory.combine(unit), blocks) for unit in units], 1)


def places(g: Tensor, among: Tensor) -> list[int]:
    """Where the columns of one matrix are found among those of another."""
    gaps = torch.cdist(g.T, among.T, compute_mode="donot_use_mm_for_euclid_dist")
    assert gaps.amin(1).max() < 1e-10  # rounding of a solve
    return gaps.argmin(1).tolist()


def identity(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=like.dtype)


def off(g: Tensor) -> Tensor:
    """The orthogonal projector off the columns of a matrix."""
    q = torch.linalg.qr(g / g.norm(dim=0)).Q
    return identity(g) - q @ q.T


def leak(g: Tensor, v: Tensor) -> float:
    """‖Q_Gᵀv‖/‖v‖ for G of full column rank."""
    return float((torch.linalg.qr(g / g.norm(dim=0)).Q.T @ v).norm() / v.norm())


def cosine(g: Tensor, v: Tensor) -> float:
    return float(g @ v / (g.norm() * v.norm()))


def saved(state: Any) -> Any:
    """A state through a file that holds tensors and plain values only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(left: Any, right: Any) -> bool:
    """Whether two states agree to the bit."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return torch.equal(left, right) if isinstance(left, Tensor) else bool(left == right)
