"""Batches of our streams, from any loader, are those of Avalanche's data set, but gathered at once."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    ConstantSequence,
    DataAttribute,
    TaskAwareSupervisedClassificationDataset,
    TaskLabels,
)
from avalanche.benchmarks.utils.data_loader import (
    GroupBalancedDataLoader,
    ReplayDataLoader,
    SingleDatasetDataLoader,
    TaskBalancedDataLoader,
)
from avalanche.training import supervised
from avalanche.training.plugins import EvaluationPlugin
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from ong.streams import ImageDataset, permuted, split
from ong.streams.experiences import items
from ong.streams.experiences.items import InMemoryDataset, Item

Make = Callable[..., Any]
KINDS = (InMemoryDataset, TaskAwareSupervisedClassificationDataset)


def maker(kind: type) -> Make:
    """Return a function that makes a data set of a class, of ``count`` examples."""

    def make(count: int, task: int = 0, **options: Any) -> Any:
        x = torch.rand(count, 1, 2, 2, generator=torch.Generator().manual_seed(count))
        y = torch.arange(count)
        return kind(
            [TensorDataset(x, y)],
            data_attributes=[DataAttribute(y.tolist(), "targets"), TaskLabels(ConstantSequence(task, count))],
            **options,
        )

    return make


def plus_one(x: torch.Tensor) -> torch.Tensor:
    return x + 1


TRANSFORMED: dict[str, Any] = {"transform_groups": {"train": (plus_one, None), "eval": None}}

# Each is made by our class and by Avalanche's.
KEPT: dict[str, Callable[[Make], Any]] = {
    "whole": lambda make: make(10),
    "subset": lambda make: make(10).subset([3, 1, 7, 7]),
    "subset of a concatenation": lambda make: make(10).concat(make(7, 1)).subset([16, 0, 9, 10]),
    "concatenation": lambda make: make(10).subset([9, 0]).concat(make(7, 1).subset([6, 1])),
    "evaluation": lambda make: make(10).concat(make(7, 1)).eval(),
    "one task of several": lambda make: make(10).concat(make(7, 1)).task_set[1],
    "evaluation without the training's transform": lambda make: make(6, **TRANSFORMED).eval(),
    "other task labels": lambda make: make(10).update_data_attribute("targets_task_labels", list(range(10))),
    "transform taken off": lambda make: make(6, **TRANSFORMED).remove_current_transform_group(),
}
CHANGED: dict[str, Callable[[Make], Any]] = {
    "transform": lambda make: make(6, **TRANSFORMED),
    "transform in a part": lambda make: make(10).concat(make(6, **TRANSFORMED)),
    "transform put on": lambda make: make(6).replace_current_transform_group(plus_one),
    "frozen transform": lambda make: make(6, **TRANSFORMED).freeze_transforms(),
    "attribute of text": lambda make: make(3).update_data_attribute(
        "name", DataAttribute(list("abc"), "name", use_in_getitem=True)
    ),
    "attribute of real numbers": lambda make: make(3).update_data_attribute(
        "weight", DataAttribute([0.5, 1.5, 2.5], "weight", use_in_getitem=True)
    ),
}
LOADERS: dict[str, Callable[[Make], Any]] = {
    "torch": lambda make: DataLoader(make(10), 4, shuffle=True),
    "in a worker": lambda make: DataLoader(make(10), 4, shuffle=True, num_workers=1),
    "torch's subset": lambda make: DataLoader(Subset(make(10), [2, 5, 1]), 2, shuffle=True),
    "torch's concatenation": lambda make: DataLoader(ConcatDataset([make(10), make(7, 1)]), 4, shuffle=True),
    "one at a time": lambda make: DataLoader(make(3), batch_size=1),
    "evaluation": lambda make: SingleDatasetDataLoader(make(10), 4),
    "balanced tasks": lambda make: TaskBalancedDataLoader(
        make(10).concat(make(7, 1)), 4, oversample_small_groups=True, shuffle=True
    ),
    "balanced groups": lambda make: GroupBalancedDataLoader([make(10), make(7), make(3)], batch_size=5, shuffle=True),
    "replay": lambda make: ReplayDataLoader(
        make(10, 2), make(10).concat(make(7, 1)).subset([2, 12, 5]), batch_size=4, batch_size_mem=2, shuffle=True
    ),
}


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make it an error to read an item."""

    def fail(dataset: InMemoryDataset, row: int) -> None:
        raise AssertionError(f"item {row} is read by itself")

    monkeypatch.setattr(InMemoryDataset, "_read", fail)


def assert_same_batches(ours: Any, theirs: Any) -> None:
    """Both loaders, given the same random numbers, yield the same: to the bit, as rows are only copied."""
    passes = []
    for loader in (ours, theirs):
        torch.manual_seed(3)
        passes.append(list(loader))
    assert len(passes[0]) == len(passes[1]) > 0
    for mine, stock in zip(*passes, strict=True):
        assert type(mine) is type(stock)
        for a, b in zip(mine, stock, strict=True):
            if isinstance(b, torch.Tensor):
                torch.testing.assert_close(a, b, rtol=0, atol=0)
            else:
                assert a == b


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", KEPT)
def test_what_avalanche_derives_from_tensors_is_gathered(name: str) -> None:
    ours, theirs = (KEPT[name](maker(kind)) for kind in KINDS)
    assert_same_batches(DataLoader(ours, 3, shuffle=True), DataLoader(theirs, 3, shuffle=True))


@pytest.mark.parametrize("name", CHANGED)
def test_other_data_come_item_by_item_as_avalanche_makes_them(name: str) -> None:
    ours, theirs = (CHANGED[name](maker(kind)) for kind in KINDS)
    assert type(ours[0]) is list
    assert_same_batches(DataLoader(ours, 3, shuffle=True), DataLoader(theirs, 3, shuffle=True))


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("name", LOADERS)
def test_every_loader_gathers(name: str) -> None:
    ours, theirs = (LOADERS[name](maker(kind)) for kind in KINDS)
    assert_same_batches(ours, theirs)


def test_a_data_set_that_was_looked_at_leaves_its_copies_free_to_differ() -> None:
    make = maker(InMemoryDataset)
    dataset = make(6, **TRANSFORMED)
    assert isinstance(dataset.eval()[0], Item)
    evaluated = dataset.eval()
    next(iter(DataLoader(evaluated, 6)))
    trained = next(iter(DataLoader(evaluated.train(), 6)))
    torch.testing.assert_close(trained[0], next(iter(DataLoader(evaluated, 6)))[0] + 1, rtol=0, atol=0)
    relabelled = evaluated.update_data_attribute("targets_task_labels", [5, 4, 3, 2, 1, 0])
    assert next(iter(DataLoader(relabelled, 6)))[2].tolist() == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda dataset: pickle.loads(pickle.dumps(dataset))])
def test_a_copy_of_a_data_set_in_use_has_the_same_batches(again: Callable[[Any], Any]) -> None:
    dataset = maker(InMemoryDataset)(10).subset([4, 2, 0])
    list(DataLoader(dataset, 2))
    assert_same_batches(DataLoader(again(dataset), 2), DataLoader(dataset, 2))


def test_parts_that_are_and_are_not_in_memory_mix() -> None:
    def parts(kind: type) -> Any:
        return ConcatDataset([maker(kind)(5), maker(TaskAwareSupervisedClassificationDataset)(3, 1)])

    ours, theirs = map(parts, KINDS)
    assert_same_batches(DataLoader(ours, 4, shuffle=True), DataLoader(theirs, 4, shuffle=True))


def test_a_batch_lies_where_its_tensors_lie() -> None:
    # tensors on "meta" have no content: whatever moved them to the processor would fail
    labels = torch.arange(5)
    attributes = [DataAttribute(labels.tolist(), "targets"), TaskLabels(ConstantSequence(0, 5))]
    dataset = InMemoryDataset([TensorDataset(torch.rand(5, 2, device="meta"), labels)], data_attributes=attributes)
    for part in (dataset, dataset.subset([3, 1]), dataset.concat(dataset)):
        for batch in DataLoader(part, 2):
            assert [column.device.type for column in batch] == ["meta", "cpu", "cpu"]


def test_parts_of_unequal_sizes_fail_as_they_do_in_avalanche() -> None:
    def fail(kind: type) -> str:
        x, labels = torch.rand(4, 3), [DataAttribute([0] * 4, "targets"), TaskLabels(ConstantSequence(0, 4))]
        parts = [maker(kind)(4), kind([TensorDataset(x, x[:, 0])], data_attributes=labels)]
        with pytest.raises(RuntimeError) as caught:
            list(DataLoader(ConcatDataset(parts), batch_size=8))
        return str(caught.value)

    assert fail(InMemoryDataset) == fail(TaskAwareSupervisedClassificationDataset)


# An item by itself


@pytest.mark.parametrize("name", KEPT)
def test_an_item_reads_as_avalanches_list(name: str) -> None:
    ours, theirs = (KEPT[name](maker(kind)) for kind in KINDS)
    for mine, stock in zip(ours, theirs, strict=True):
        x, y, task = mine
        assert torch.equal(x, stock[0])
        assert torch.equal(y, stock[1])
        assert (type(task), task) == (int, stock[2])
        assert len(mine) == 3
        assert repr(mine) == repr(stock)
        assert isinstance(mine[1:], list)


def test_items_are_found_by_any_integer_and_not_beyond_the_end() -> None:
    dataset = maker(InMemoryDataset)(5).concat(maker(InMemoryDataset)(3, 1))
    assert [int(dataset[i][1]) for i in (0, np.int64(4), -1, -8)] == [0, 4, 2, 0]
    for i in (8, -9):
        with pytest.raises(IndexError):
            dataset[i]


def test_an_item_that_was_changed_is_collated_as_it_is_now() -> None:
    dataset = maker(InMemoryDataset)(3)
    first, second = dataset[0], dataset[1]
    first[2] = 7
    second.append("new")
    del second[2]
    second[2:] = [5]
    batch = torch.utils.data.default_collate([first, second, dataset[2]])
    assert [column.tolist() for column in batch[1:]] == [[0, 1, 2], [7, 5, 0]]
    assert dataset[0][2] == 0


def test_a_collate_function_of_ones_own_sees_the_items() -> None:
    def labels(batch: list[Any]) -> list[tuple[int, int]]:
        return [(int(y), task) for _, y, task in batch]

    assert list(DataLoader(maker(InMemoryDataset)(3, 4), 2, collate_fn=labels)) == [[(0, 4), (1, 4)], [(2, 4)]]
    assert list(SingleDatasetDataLoader(maker(InMemoryDataset)(2, 4, collate_fn=labels), 2)) == [[(0, 4), (1, 4)]]


def test_a_copy_of_an_item_is_a_list_of_its_own() -> None:
    item = maker(InMemoryDataset)(3, 4)[1]
    copied = copy.copy(item)
    copied[2] = 0
    assert type(copied) is list
    assert item[2] == 4
    assert_same_batches(*(DataLoader(maker(kind)(3), batch_size=None) for kind in KINDS))


def test_a_data_set_around_a_subset_appends_its_attributes() -> None:
    inner = Subset(maker(InMemoryDataset)(5), [4, 2])
    outer = AvalancheDataset([inner], data_attributes=[DataAttribute([8, 9], "weight", use_in_getitem=True)])
    assert [column.tolist() for column in next(iter(DataLoader(outer, 2)))[1:]] == [[4, 2], [0, 0], [8, 9]]


# The streams


def weights(name: str, benchmark: Any, inputs: int, options: dict[str, Any]) -> Iterator[torch.Tensor]:
    """Train a stock strategy, evaluating now and then; return the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 5))
    strategy = getattr(supervised, name)(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), criterion=nn.CrossEntropyLoss(),
        train_mb_size=8, eval_mb_size=8, evaluator=EvaluationPlugin(loggers=[]), **options,
    )  # fmt: skip
    for experience in benchmark.train_stream:
        strategy.train(experience)
        strategy.eval(benchmark.test_stream)
    return model.parameters()


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize("task_aware", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Naive", {}),
        ("Replay", {"mem_size": 12}),
        ("GEM", {"patterns_per_exp": 8, "memory_strength": 0.1}),
        ("AGEM", {"patterns_per_exp": 8, "sample_size": 8}),
        ("EWC", {"ewc_lambda": 1.0}),
        ("Cumulative", {}),
    ],
)
def test_stock_strategies_learn_the_same_as_item_by_item(
    tiny: ImageDataset, monkeypatch: pytest.MonkeyPatch, name: str, options: dict[str, Any], task_aware: bool
) -> None:
    def learnt() -> list[torch.Tensor]:
        import random

        random.seed(0)  # A-GEM and Replay choose what they keep by Python's and torch's generators
        benchmark = split(tiny, tasks=2, scenario="task") if task_aware else permuted(tiny, tasks=2)
        return list(weights(name, benchmark, 36, options))

    ours = learnt()
    monkeypatch.setattr(items, "InMemoryDataset", TaskAwareSupervisedClassificationDataset)
    theirs = learnt()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
