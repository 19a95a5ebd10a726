"""Training loops as people write them, around any optimizer, and what a method's steps must do in all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import torch
from nets import mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from ong.curvature import Block, DiagonalBlock, EigenBlock, Vector
from ong.methods import (
    EWC,
    FOPNG,
    GPM,
    NCL,
    NGD,
    OGD,
    ONG,
    OWM,
    SGP,
    SI,
    DirectionMethod,
    Method,
    OGDPlus,
    ONGPrior,
    ONGReplay,
    ONGv1,
)

Task = list[Tensor]
Make = Callable[[], Method]
MakeOptimizer = Callable[[nn.Module, float], torch.optim.Optimizer]
Loop = Callable[[nn.Module, torch.optim.Optimizer, Task], None]

EXAMPLES = 12
WIDTHS = (6, 12, 3)

EVERY: dict[str, Make] = {
    "EWC": lambda: EWC(strength=3.0, examples_per_task=EXAMPLES),
    "EWC, ekfac": lambda: EWC(strength=3.0, penalty="ekfac", examples_per_task=EXAMPLES),
    "FOPNG": lambda: FOPNG(directions_per_task=EXAMPLES, examples_per_task=EXAMPLES),
    "GPM": lambda: GPM(threshold=0.9, examples_per_task=EXAMPLES),
    "NCL": lambda: NCL(damping=0.3, examples_per_task=EXAMPLES),
    "NGD": lambda: NGD(damping=0.3, examples_per_task=EXAMPLES),
    "OGD": lambda: OGD(directions_per_task=EXAMPLES),
    "OGDPlus": lambda: OGDPlus(directions_per_task=EXAMPLES),
    "ONG": lambda: ONG(damping=0.3, directions_per_task=EXAMPLES, examples_per_task=EXAMPLES),
    "ONGPrior": lambda: ONGPrior(damping=0.3, directions_per_task=EXAMPLES, examples_per_task=EXAMPLES),
    "ONGPrior, pull": lambda: ONGPrior(damping=0.3, pull=1.0, directions_per_task=EXAMPLES, examples_per_task=EXAMPLES),
    "ONGReplay": lambda: ONGReplay(damping=0.3, examples=EXAMPLES, replay_batch=4),
    "ONGv1": lambda: ONGv1(damping=0.3, directions_per_task=EXAMPLES, examples_per_task=EXAMPLES),
    "OWM": lambda: OWM(alpha=0.3, examples_per_task=EXAMPLES),
    "SGP": lambda: SGP(threshold=0.9, examples_per_task=EXAMPLES),
    "SI": lambda: SI(strength=3.0),
}
"""Every method, with as many examples as the tasks here have."""

EXACT = ("OGD", "ONGPrior", "ONGv1")
"""Those that promise Gᵀ(θ_new − θ_old) = 0."""


def task(seed: int = 0, examples: int = EXAMPLES, width: int = WIDTHS[0], classes: int = WIDTHS[-1]) -> Task:
    """Random inputs and labels in float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, width, generator=generator, dtype=torch.float64)
    return [x, torch.randint(0, classes, (examples,), generator=generator)]


def net(seed: int = 0) -> nn.Sequential:
    """A tanh network of 123 parameters."""
    return mlp(*WIDTHS, seed=seed)


def batches(data: Task, count: int) -> Iterator[Task]:
    """The examples in order, in ``count`` batches."""
    yield from (list(part) for part in zip(*(torch.chunk(column, count) for column in data), strict=True))


def loss_of(model: nn.Module, batch: Task) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def values(blocks: dict[str, Block]) -> Vector:
    return {name: block.values().clone() for name, block in blocks.items()}


# Loops.


def plain(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    for batch in batches(data, 4):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()


def whole(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """The whole task as one batch, three times."""
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model, data).backward()
        optimizer.step()


def accumulating(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """:func:`whole` in three batches a step."""
    for _ in range(3):
        optimizer.zero_grad()
        for batch in batches(data, 3):
            (loss_of(model, batch) / 3).backward()
        optimizer.step()


def scaling(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """:func:`plain` with a scaled loss; a scale that is a power of two rounds nothing."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    for batch in batches(data, 4):
        optimizer.zero_grad()
        scaler.scale(loss_of(model, batch)).backward()
        scaler.step(optimizer)
        scaler.update()


def clipping(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    for batch in batches(data, 4):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimizer.step()


def closing(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """:func:`plain` with a closure."""
    for batch in batches(data, 4):

        def closure(batch: Task = batch) -> Tensor:
            optimizer.zero_grad()
            loss = loss_of(model, batch)
            loss.backward()
            return loss

        optimizer.step(closure)


def repeating(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """Several steps along one gradient."""
    for batch in batches(data, 2):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        for _ in range(3):
            optimizer.step()


def skipping(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """The last layer takes no part in every other step, the first one in every third."""
    for step, batch in enumerate(batches(data, 6)):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        for layer in [model[-1]] * (step % 2) + [model[0]] * (step % 3 == 2):  # type: ignore[index]
            for parameter in layer.parameters():
                parameter.grad = None
        optimizer.step()


def warming(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """A rate that rises from 0."""
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 3))
    for batch in batches(data, 6):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        scheduler.step()


def parting(model: nn.Module, optimizer: torch.optim.Optimizer, data: Task) -> None:
    """Two groups' rates that are equal in every other step."""
    both = [lambda step: 1.0, lambda step: 1.0 if step % 2 == 0 else 3.0]
    factors = both[: len(optimizer.param_groups)]
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
    for batch in batches(data, 6):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        scheduler.step()


LOOPS: dict[str, Loop] = {
    loop.__name__: loop
    for loop in (plain, accumulating, scaling, clipping, closing, repeating, skipping, warming, parting)
}


# Optimizers, each at a rate.


def layers_apart(model: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(model[0].parameters())}, {"params": list(model[2].parameters())}]  # type: ignore[index]


def biases_apart(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The usual groups: weights decay, biases do not."""
    parts = [[p for p in model.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)]
    return [{"params": parts[0], "weight_decay": decay}, {"params": parts[1], "weight_decay": 0.0}]


def _rates(model: nn.Module, rate: float, **options: Any) -> torch.optim.SGD:
    first, second = layers_apart(model)
    return torch.optim.SGD([first | {"lr": rate}, second | {"lr": 3 * rate}], **options)


def _adam_rates(model: nn.Module, rate: float) -> torch.optim.Adam:
    first, second = layers_apart(model)
    return torch.optim.Adam([first | {"lr": rate}, second | {"lr": 3 * rate}])


OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate),
    "sgd, momentum": lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate, momentum=0.9),
    "sgd, nesterov": lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate, momentum=0.9, nesterov=True),
    "sgd, dampening": lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate, momentum=0.9, dampening=0.5),
    "sgd, decay": lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate, momentum=0.9, weight_decay=0.1),
    "sgd, two groups": lambda m, rate: torch.optim.SGD(layers_apart(m), lr=rate, momentum=0.9),
    "sgd, rates": lambda m, rate: _rates(m, rate),
    "sgd, rates and momentum": lambda m, rate: _rates(m, rate, momentum=0.9),
    "sgd, decay by group": lambda m, rate: torch.optim.SGD(biases_apart(m, 0.1), lr=rate),
    "sgd, fused": lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate, momentum=0.9, fused=True),
    "sgd, rate as a tensor": lambda m, rate: torch.optim.SGD(m.parameters(), lr=torch.tensor(rate)),
    "adam": lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate),
    "adam, rates": _adam_rates,
    "adam, fused": lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate, fused=True),
    "adamw, decay by group": lambda m, rate: torch.optim.AdamW(biases_apart(m, 0.1), lr=rate),
    "rmsprop": lambda m, rate: torch.optim.RMSprop(m.parameters(), lr=rate, momentum=0.5),
    "lbfgs": lambda m, rate: torch.optim.LBFGS(m.parameters(), lr=rate, max_iter=2),
}


# What a method keeps and does, in whole matrices.


def flat(vector: Vector) -> Tensor:
    return torch.cat([part.flatten() for part in vector.values()])


def dense_fisher(known: EigenBlock | DiagonalBlock) -> Tensor:
    """F of a block from its definition, ``[rows · columns, rows · columns]``."""
    if isinstance(known, DiagonalBlock):
        return torch.diag(known.eigenvalues.flatten())
    assert not known.others
    basis = torch.kron(known.outputs_basis, known.inputs_basis)
    return basis @ torch.diag(known.eigenvalues.flatten()) @ basis.T


def stored_gradients(method: DirectionMethod) -> Tensor:
    """G, ``[parameters, M]``, in the blocks' order."""
    everything = torch.arange(len(method.memory))
    rows = [method.memory.rows[name].dense(everything).flatten(1) for name in method.blocks]
    return torch.cat(rows, 1).T


def projector(method: Method, among: tuple[str, ...]) -> Tensor:
    """P over the blocks ``among``, from the formula in each class's docstring and with a pseudo-inverse in it."""
    assert isinstance(method, DirectionMethod)
    sizes = [block.shape[0] * block.shape[1] for block in method.blocks.values()]
    moving = torch.cat([torch.full((n,), name in among) for name, n in zip(method.blocks, sizes, strict=True)])
    gradients = stored_gradients(method)[moving]
    identity = torch.eye(len(gradients), dtype=gradients.dtype)
    off = identity - gradients @ torch.linalg.pinv(gradients, rtol=1e-10)
    if isinstance(method, OGD):
        return off
    past = method.past if isinstance(method, ONGPrior) else method.current  # type: ignore[attr-defined]
    fisher = torch.block_diag(*(dense_fisher(past.ekfac.blocks[name]) for name in among))
    inverse = torch.linalg.inv(identity + fisher / past.damping)
    if isinstance(method, ONGv1):
        return off @ inverse
    along = inverse @ gradients
    return inverse - along @ torch.linalg.pinv(gradients.T @ along, rtol=1e-10, hermitian=True) @ along.T


class Run(NamedTuple):
    """A second task, trained after a first.

    Attributes:
        method: the method, before the end of the second task.
        model: the net after it.
        start: the net before it.
        displacement: θ_before − θ_after.
    """

    method: Method
    model: nn.Module
    start: nn.Module
    displacement: Vector

    def moved_outputs(self, data: Task) -> Tensor:
        """By how much the stored logits moved."""
        with torch.no_grad():
            return (self.model(data[0]) - self.start(data[0])).gather(1, data[1][:, None])[:, 0]


def second_task(make: Make, optimizer: MakeOptimizer, loop: Loop, rate: float = 1e-3, seed: int = 0) -> Run:
    """Train a random net on a first task at one rate, and on a second one at the rate given."""
    model, method = net(seed), make()
    first, second = task(10 * seed), task(10 * seed + 1)
    with method.attach(model, optimizer(model, 1e-2)) as attached:
        attached.begin_task(first)
        loop(model, method._hooks.optimizer, first)  # type: ignore[union-attr]
        attached.end_task()
    start = copy.deepcopy(model)
    made = optimizer(model, rate)
    with method.attach(model, made):
        method.begin_task(second)
        before = values(method.blocks)
        loop(model, made, second)
        after = values(method.blocks)
        blocks = dict(method.blocks)
    method.blocks = blocks
    return Run(method, model, start, {name: before[name] - after[name] for name in before})


@cache
def trained(method: str, optimizer: str, loop: str, rate: float) -> Run:
    """:func:`second_task` by names, once for all tests."""
    return second_task(EVERY[method], OPTIMIZERS[optimizer], LOOPS[loop], rate)


# Several processes.

PARALLEL: dict[str, Make] = {
    "OGD": lambda: OGD(directions_per_task=EXAMPLES),
    "ONGPrior": lambda: ONGPrior(damping=0.3, fisher="exact", directions_per_task=EXAMPLES, examples_per_task=EXAMPLES),
    "EWC": lambda: EWC(strength=3.0, fisher="exact", examples_per_task=EXAMPLES),
}
"""Methods that draw every example and nothing at random from it, whose order differs between processes."""


class Passing(IterableDataset):  # type: ignore[type-arg]
    """Examples that only pass by, those of one process alone."""

    def __init__(self, data: Task) -> None:
        self._data = data

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        return iter(zip(*self._data, strict=True))


SHARES = ("examples that pass by", "a distributed sampler", "lists of tensors")


def loader_of(data: Task, rank: int, processes: int, kind: str) -> Any:
    """One process's share of a task as one batch."""
    own = [part[rank::processes] for part in data]
    if kind == SHARES[0]:
        return DataLoader(Passing(own), batch_size=EXAMPLES)
    if kind == SHARES[2]:
        return [own]
    dataset = TensorDataset(*data)
    sampler = DistributedSampler(dataset, processes, rank, shuffle=False)
    return DataLoader(dataset, batch_size=EXAMPLES, sampler=sampler)


def two_tasks(name: str, rank: int, processes: int, kind: str) -> tuple[Tensor, dict[str, Any]]:
    """Weights and state after two tasks, each process with its share of every batch."""
    model, method = net(), PARALLEL[name]()
    parallel = nn.parallel.DistributedDataParallel(model) if processes > 1 else model
    sgd = torch.optim.SGD(parallel.parameters(), lr=0.05, momentum=0.9)
    with method.attach(parallel, sgd):
        for seed in range(2):
            loader = loader_of(task(seed), rank, processes, kind)
            method.begin_task(loader)
            for _ in range(3):
                for batch in loader:
                    sgd.zero_grad()
                    loss_of(parallel, batch).backward()
                    sgd.step()
            method.end_task()
    return weights(model), method.state_dict()


def in_process(rank: int, processes: int, folder: str) -> None:
    """Run :func:`two_tasks` of each method in one of several processes, and save what comes out."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=processes)
    found = {(name, kind): two_tasks(name, rank, processes, kind) for name in PARALLEL for kind in SHARES}
    torch.save(found, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()
