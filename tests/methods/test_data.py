"""A task's examples, whatever they come in: all of them are reached, each as likely as the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from methods.matrices import Learner, columns, places, task
from scipy.stats import chisquare
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from ong.curvature import batch_size, targets_of
from ong.errors import UserError
from ong.methods import OGD, Examples
from ong.streams import TensorLoader

COUNT = 23
X = torch.arange(COUNT, dtype=torch.float64)[:, None] * torch.ones(1, 2, dtype=torch.float64)
Y = torch.arange(COUNT) % 3
CPU = torch.device("cpu")


class Passing:
    """Batches that pass by, each time it is gone through."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, COUNT, 5):
            yield X[start : start + 5], Y[start : start + 5]


class Streamed(IterableDataset):  # type: ignore[type-arg]
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(X, Y, strict=True))


class Named(Dataset):  # type: ignore[type-arg]
    """Items that are dictionaries."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"values": X[index], "labels": Y[index]}


class Together(Named):
    """Items that come several at a time, as those of ``datasets`` do."""

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("one at a time is slow")

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{"values": X[i], "labels": Y[i]} for i in indices]


WHOLE = TensorDataset(X, Y)
KINDS: dict[str, Callable[[], Any]] = {
    "a data set": lambda: WHOLE,
    "a loader": lambda: DataLoader(WHOLE, batch_size=4),
    "a loader that shuffles and drops the last batch": lambda: DataLoader(WHOLE, 4, shuffle=True, drop_last=True),
    "a loader with a batch sampler": lambda: DataLoader(
        WHOLE, batch_sampler=BatchSampler(RandomSampler(WHOLE), 4, drop_last=False)
    ),
    "a loader of a subset": lambda: DataLoader(
        Subset(TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])), range(COUNT)), 4
    ),
    "a loader of items by name": lambda: DataLoader(Named(), 4),
    "a loader of items that come together": lambda: DataLoader(Together(), 4),
    "a loader of a stream": lambda: DataLoader(Streamed(), batch_size=4),
    "a loader in memory": lambda: TensorLoader([X, Y], batch_size=4),
    "tensors": lambda: [X, Y],
    "a tuple of tensors": lambda: (X, Y),
    "batches": lambda: list(Passing()),
    "batches by name": lambda: [{"values": x, "labels": y} for x, y in Passing()],
    "batches that pass by": Passing,
}


def drawn(data: Any, count: int, seed: int = 0, **options: Any) -> list[int]:
    """The numbers of the examples drawn."""
    batches = Examples(data, CPU).draw(count, torch.Generator().manual_seed(seed), **options)
    found = []
    for batch in batches:
        x, y = (batch["values"], batch["labels"]) if isinstance(batch, dict) else (batch[0], batch[1])
        numbers = x[:, 0].long()
        assert torch.equal(numbers % 3, y)  # targets stay with their inputs
        assert torch.equal(targets_of(batch), y)
        found += numbers.tolist()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_all_examples_are_reached_once(kind: str) -> None:
    assert sorted(drawn(KINDS[kind](), 100)) == list(range(COUNT))


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_as_are_asked_for_come_without_repetition_and_the_same_for_a_seed(kind: str) -> None:
    first = drawn(KINDS[kind](), 9)
    assert len(set(first)) == 9
    assert first == drawn(KINDS[kind](), 9)
    assert first != drawn(KINDS[kind](), 9, seed=1)


@pytest.mark.parametrize("kind", ["a loader", "tensors", "batches", "batches that pass by", "a loader of a stream"])
def test_every_example_is_as_likely_as_the_others(kind: str) -> None:
    """χ² over 400 draws of 6 of 23: p < 0.001 for one seed in a thousand, and these seeds are fixed."""
    data, counts = KINDS[kind](), torch.zeros(COUNT)
    for seed in range(400):
        for number in drawn(data, 6, seed):
            counts[number] += 1
    # draws without repetition vary less than independent ones, by (n − k)/(n − 1)
    statistic = chisquare(counts.numpy()).statistic * (COUNT - 1) / (COUNT - 6)
    assert statistic < 48.3  # the 99.9 % quantile of χ² with 22 degrees of freedom


def test_a_loader_of_some_examples_gives_those_alone() -> None:
    some = [1, 5, 8, 13, 21]
    loader = DataLoader(WHOLE, batch_size=2, sampler=SubsetRandomSampler(some))
    assert sorted(drawn(loader, 100)) == some
    assert set(drawn(loader, 3)) < set(some)


def test_a_loader_that_repeats_examples_gives_what_it_gives() -> None:
    """Weighted sampling is how some train; its examples are drawn from what passes by."""
    weights = [1.0 if i in (2, 3) else 0.0 for i in range(COUNT)]
    loader = DataLoader(WHOLE, batch_size=4, sampler=WeightedRandomSampler(weights, 12))
    assert set(drawn(loader, 12)) == {2, 3}


def test_batches_hold_at_most_256_examples() -> None:
    y = torch.zeros(600, dtype=torch.long)
    for data in ([torch.zeros(600, 2), y], DataLoader(TensorDataset(torch.zeros(600, 2), y), 600, shuffle=True)):
        batches = Examples(data, CPU).draw(550, torch.Generator())
        assert [batch_size(batch) for batch in batches] == [256, 256, 38]


def test_the_far_end_follows_and_is_what_a_larger_count_reaches_last() -> None:
    order = drawn([X, Y], COUNT)
    assert drawn([X, Y], 4, far=3) == order[:4] + order[-3:]
    assert drawn([X, Y], 20, far=5) == order  # nothing twice


@pytest.mark.parametrize("kind", ["rows", "passing"])
def test_examples_without_a_label_are_left_out(kind: str) -> None:
    y = torch.where(torch.arange(COUNT) % 2 == 0, Y, -100)
    data: Any = (
        [X, y] if kind == "rows" else DataLoader(TensorDataset(X, y), 4, sampler=SubsetRandomSampler(range(COUNT)))
    )
    batches = Examples(data, CPU).draw(100, torch.Generator().manual_seed(0))
    numbers = torch.cat([batch[0][:, 0] for batch in batches]).long().tolist()
    assert sorted(numbers) == list(range(0, COUNT, 2))


@pytest.mark.parametrize("kind", ["rows", "passing"])
def test_a_few_labels_among_many_examples_are_found(kind: str) -> None:
    y = torch.full((1000,), -100)
    y[777] = 1
    x = torch.arange(1000.0)[:, None]
    data: Any = (
        [x, y] if kind == "rows" else DataLoader(TensorDataset(x, y), 50, sampler=SubsetRandomSampler(range(1000)))
    )
    for seed in range(5):
        (batch,) = Examples(data, CPU).draw(8, torch.Generator().manual_seed(seed))
        assert batch[0].tolist() == [[777.0]]


@pytest.mark.parametrize("data", [[X, torch.full((COUNT,), -100)], [(X[:4], torch.full((4,), -100))]])
def test_no_label_at_all_is_an_error(data: Any) -> None:
    with pytest.raises(UserError, match="none of the examples has a label"):
        Examples(data, CPU).draw(5, torch.Generator())


@pytest.mark.parametrize(
    "data", [[], [X[:0], Y[:0]], TensorDataset(X[:0], Y[:0]), DataLoader(TensorDataset(X[:0], Y[:0])), iter([])]
)
def test_empty_data_are_an_error_that_says_so(data: Any) -> None:
    with pytest.raises(UserError, match="a task's data are empty"):
        Examples(data, CPU).draw(5, torch.Generator())


def test_an_iterator_that_is_used_up_is_named_as_such() -> None:
    once = iter(Passing())
    examples = Examples(once, CPU)
    examples.draw(5, torch.Generator())
    with pytest.raises(UserError, match="an iterator that is used up cannot be gone through again"):
        examples.draw(5, torch.Generator())


def test_a_dictionary_is_one_batch() -> None:
    examples = Examples({"values": X, "labels": Y}, CPU)
    assert examples.count == COUNT
    (drawn,) = examples.draw(COUNT, torch.Generator())
    assert sorted(drawn["values"][:, 0].tolist()) == X[:, 0].tolist()


@pytest.mark.parametrize("data", [3, None])
def test_other_data_are_refused_with_what_is_expected(data: Any) -> None:
    with pytest.raises(UserError, match="a task's data are a loader, a Dataset, a list of tensors or of batches"):
        Examples(data, CPU)


@pytest.mark.parametrize("kind", ["tensors", "loader", "named", "batches", "passing"])
def test_a_method_keeps_the_same_of_a_task_whatever_it_comes_in(kind: str) -> None:
    """Every example's gradient, in some order."""
    x, y = task(examples=9)

    class Keyed(torch.nn.Module):
        def __init__(self, body: torch.nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, values: Tensor) -> Tensor:
            return self.body(values)

    learner = Learner(OGD(directions_per_task=9))
    learner.model = Keyed(learner.model)
    learner.method.attach(learner.model, learner.optimizer)
    items = TensorDataset(x, y)
    data: Any = {
        "tensors": [x, y],
        "loader": DataLoader(items, 4, shuffle=True),
        "named": DataLoader(
            items,
            4,
            collate_fn=lambda rows: {
                "values": torch.stack([r[0] for r in rows]),
                "labels": torch.stack([r[1] for r in rows]),
            },
        ),
        "batches": [(x[:5], y[:5]), (x[5:], y[5:])],
        "passing": DataLoader(items, 4, sampler=SubsetRandomSampler(range(9))),
    }[kind]
    learner.method.begin_task(data)
    expected = learner.gradients([x, y])
    learner.method.end_task()
    learner.method.begin_task(data)
    assert sorted(places(columns(learner.method.memory, learner.blocks), expected)) == list(range(9))
