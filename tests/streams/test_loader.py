import copy
from collections.abc import Sequence
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
from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin, SupervisedPlugin
from avalanche.training.supervised import Cumulative, JointTraining, Naive
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ong.streams import ImageDataset, permuted, split
from ong.streams.experiences.columns import in_memory_columns
from ong.streams.experiences.loader import InMemoryLoader
from ong.streams.tensors import TensorLoader, epoch_order


class Recorder(SupervisedPlugin):
    """Keep what a strategy sees: loaders by experience, and mini-batches by (phase, experience)."""

    def __init__(self) -> None:
        super().__init__()
        self.loaders: list[type] = []
        self.batches: dict[tuple[str, int], list[list[torch.Tensor]]] = {}

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.loaders.append(type(strategy.dataloader))

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._keep("train", strategy)

    def before_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._keep("eval", strategy)

    def _keep(self, phase: str, strategy: Any) -> None:
        key = (phase, strategy.experience.current_experience)
        self.batches.setdefault(key, []).append([column.clone() for column in strategy.mbatch])

    def columns(self, phase: str, experience: int) -> list[torch.Tensor]:
        return [torch.cat(column) for column in zip(*self.batches[phase, experience], strict=True)]


def make(kind: Any, plugins: Sequence[Any], *, inputs: int = 36, outputs: int = 5, **options: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))
    return kind(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1), criterion=nn.CrossEntropyLoss(),
        train_mb_size=16, eval_mb_size=8, train_epochs=options.pop("train_epochs", 1), plugins=list(plugins),
        evaluator=EvaluationPlugin(loggers=[]), **options,
    )  # fmt: skip


def rows_of(columns: Sequence[torch.Tensor]) -> list[tuple[float, ...]]:
    """Return the rows of several columns as sorted tuples, to compare as multisets."""
    return sorted(map(tuple, torch.cat([c.flatten(1) if c.dim() > 1 else c[:, None] for c in columns], 1).tolist()))


def stock(dataset: Any) -> list[torch.Tensor]:
    """Return a data set's columns as PyTorch's own loader collates them."""
    return next(iter(DataLoader(dataset, batch_size=len(dataset))))


def plain(count: int, task: int = 0, **options: Any) -> Any:
    x, y = torch.rand(count, 1, 2, 2), torch.arange(count)
    return TaskAwareSupervisedClassificationDataset(
        [TensorDataset(x, y)],
        data_attributes=[DataAttribute(y.tolist(), "targets"), TaskLabels(ConstantSequence(task, count))],
        **options,
    )


A, B = plain(10), plain(7, task=1)
WITHOUT_TRANSFORM = plain(6, transform_groups={"train": None, "eval": None})
DATASETS = {
    "whole": A,
    "subset": A.subset([3, 1, 7, 7]),
    "subset of a subset": A.subset([3, 1, 7]).subset([2, 0]),
    "concatenation": A.concat(B),
    "concatenation with itself": A.concat(A),
    "concatenation of subsets": A.subset([9, 0]).concat(B.subset([6, 1])).concat(A.subset([2])),
    "subset of a concatenation": A.concat(B).subset([16, 0, 9, 10]),
    "cumulative": A.concat(B).concat(plain(5, task=2)).concat(A),
    "empty transform groups": WITHOUT_TRANSFORM.concat(A).subset([1, 5, 6]),
    "frozen": A.concat(WITHOUT_TRANSFORM.freeze_transforms()),
    "evaluation": A.concat(B).eval(),
    "no attributes in items": AvalancheDataset([TensorDataset(torch.rand(4, 2))]),
    "attribute from a list": A.update_data_attribute("targets_task_labels", list(range(10))).subset([4, 2]),
}


@pytest.mark.parametrize("name", DATASETS)
def test_columns_are_what_the_stock_loader_collates(name: str) -> None:
    columns = in_memory_columns(DATASETS[name])
    expected = stock(DATASETS[name])
    assert columns is not None
    assert len(columns) == len(expected)
    for ours, theirs in zip(columns, expected, strict=True):
        assert ours[:].dtype == theirs.dtype
        assert torch.equal(ours[:], theirs)


class Squares(TensorDataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(index)
        return x**2, y


@pytest.mark.parametrize(
    "dataset",
    [
        plain(4, transform_groups={"train": (lambda x: x + 1, None), "eval": (None, None)}),
        A.concat(plain(4, transform_groups={"train": (lambda x: x + 1, None), "eval": (None, None)})),
        plain(4, transform_groups={"train": (lambda x: x + 1, None), "eval": None}).freeze_transforms(),
        plain(4, collate_fn=list),
        AvalancheDataset([TensorDataset(torch.rand(3, n)) for n in (2, 5)]),
        AvalancheDataset([Squares(torch.rand(3, 2), torch.arange(3))]),
        AvalancheDataset([[(torch.rand(2), 0)]]),
        A.update_data_attribute("name", DataAttribute(list("abcdefghij"), "name", use_in_getitem=True)),
        TensorDataset(torch.rand(3, 2)),
    ],
    ids=[
        "transform", "transform in a part", "frozen transform", "collate_fn", "unequal sizes",
        "subclass", "list", "text attribute", "not Avalanche's",
    ],
)  # fmt: skip
def test_other_data_have_no_columns(dataset: Any) -> None:
    assert in_memory_columns(dataset) is None


def test_a_transform_counts_in_its_own_group_only() -> None:
    dataset = plain(4, transform_groups={"train": (lambda x: x + 1, None), "eval": None})
    assert in_memory_columns(dataset.train()) is None
    columns = in_memory_columns(dataset.eval())
    assert columns is not None
    assert torch.equal(columns[0][:], stock(dataset.eval())[0])


def test_each_epoch_has_every_sample_once_in_the_order_of_seed_experience_and_epoch(
    tiny: ImageDataset,
) -> None:
    recorder = Recorder()
    benchmark = permuted(tiny, tasks=2)
    strategy = make(Naive, [InMemoryLoader(seed=9), recorder], train_epochs=2)
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert set(recorder.loaders) == {TensorLoader}
    for task, experience in enumerate(benchmark.train_stream):
        expected = stock(experience.dataset)
        seen = recorder.columns("train", task)
        for epoch in (0, 1):
            order = epoch_order(40, (9, task), epoch)
            for ours, theirs in zip(seen, expected, strict=True):
                assert torch.equal(ours[40 * epoch : 40 * (epoch + 1)], theirs[order])
    assert [len(batch[0]) for batch in recorder.batches["train", 0]] == [16, 16, 8] * 2


def test_evaluation_sees_what_the_stock_loader_sees(tiny: ImageDataset) -> None:
    benchmark = split(tiny, tasks=2, scenario="task")
    fast, slow = Recorder(), Recorder()
    make(Naive, [InMemoryLoader(), fast]).eval(benchmark.test_stream)
    make(Naive, [slow]).eval(benchmark.test_stream)
    assert fast.batches.keys() == slow.batches.keys()
    for key in fast.batches:
        for ours, theirs in zip(fast.batches[key], slow.batches[key], strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_evaluation_amid_training_does_not_disturb_the_order(tiny: ImageDataset) -> None:
    benchmark = permuted(tiny, tasks=1)
    often, never = Recorder(), Recorder()
    for recorder, every in ((often, 1), (never, -1)):
        strategy = make(Naive, [InMemoryLoader(), recorder], eval_every=every, peval_mode="iteration", train_epochs=2)
        strategy.train(benchmark.train_stream, eval_streams=[benchmark.test_stream])
    assert ("eval", 0) in often.batches
    assert torch.equal(often.columns("train", 0)[0], never.columns("train", 0)[0])


class Greedy(SupervisedPlugin):
    """Draw from the global generators, as many strategies do."""

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        torch.rand(3)


def test_a_strategy_that_draws_random_numbers_sees_the_same_order(tiny: ImageDataset) -> None:
    seen = []
    for plugins in ([], [Greedy()]):
        recorder = Recorder()
        strategy = make(Naive, [*plugins, InMemoryLoader(), recorder], train_epochs=2)
        strategy.train(permuted(tiny, tasks=2).train_stream)
        seen.append(recorder.columns("train", 1)[0])
    assert torch.equal(*seen)


@pytest.mark.parametrize("kind", [Cumulative, JointTraining])
def test_cumulative_and_joint_training_see_all_their_tasks_once_an_epoch(tiny: ImageDataset, kind: Any) -> None:
    recorder = Recorder()
    benchmark = permuted(tiny, tasks=3)
    strategy = make(kind, [InMemoryLoader(), recorder])
    if kind is Cumulative:
        for experience in benchmark.train_stream:
            strategy.train(experience)
    else:
        strategy.train(benchmark.train_stream)
    assert set(recorder.loaders) == {TensorLoader}
    parts = [stock(e.dataset) for e in benchmark.train_stream]
    everything = [torch.cat(column) for column in zip(*parts, strict=True)]
    last = recorder.columns("train", 2 if kind is Cumulative else 0)
    assert rows_of(last) == rows_of(everything)


@pytest.mark.parametrize("replay_first", [False, True])
def test_replay_still_mixes_memory_wherever_it_stands(tiny: ImageDataset, replay_first: bool) -> None:
    recorder, replay = Recorder(), ReplayPlugin(mem_size=8)
    plugins = [replay, InMemoryLoader()] if replay_first else [InMemoryLoader(), replay]
    benchmark = split(tiny, tasks=2, scenario="class")
    strategy = make(Naive, [*plugins, recorder])
    for experience in benchmark.train_stream:
        strategy.train(experience)
    assert recorder.loaders[0] is TensorLoader
    assert recorder.columns("train", 0)[1].unique().tolist() == [0, 1]
    assert recorder.columns("train", 1)[1].unique().tolist() == [0, 1, 2, 3]


def test_task_aware_experiences_keep_their_labels_and_balanced_batches_of_several_tasks_stay(
    tiny: ImageDataset,
) -> None:
    benchmark = split(tiny, tasks=2, scenario="task")
    single, several = Recorder(), Recorder()
    strategy = make(Naive, [InMemoryLoader(), single])
    strategy.train(benchmark.train_stream)
    assert set(single.loaders) == {TensorLoader}
    assert [single.columns("train", task)[2].unique().tolist() for task in (0, 1)] == [[0], [1]]
    make(JointTraining, [InMemoryLoader(), several]).train(benchmark.train_stream)
    assert several.loaders[0].__name__ == "TaskBalancedDataLoader"
    first = several.batches["train", 0][0][2]
    assert first.bincount().tolist() == [8, 8]


def test_drop_last_and_no_shuffling_given_to_train_are_kept(tiny: ImageDataset) -> None:
    recorder = Recorder()
    benchmark = permuted(tiny, tasks=1)
    make(Naive, [InMemoryLoader(), recorder]).train(benchmark.train_stream, shuffle=False, drop_last=True)
    assert recorder.loaders == [TensorLoader]
    assert torch.equal(recorder.columns("train", 0)[0], stock(benchmark.train_stream[0].dataset)[0][:32])


def test_transformed_data_keep_avalanches_loader() -> None:
    from avalanche.benchmarks import benchmark_from_datasets

    dataset = plain(8, transform_groups={"train": (lambda x: x + 1, None), "eval": None})
    recorder = Recorder()
    make(Naive, [InMemoryLoader(), recorder], inputs=4, outputs=8).train(
        benchmark_from_datasets(train=[dataset]).train_stream
    )
    assert recorder.loaders == [DataLoader]


def test_training_is_the_same_as_from_the_stock_loader_in_the_same_order(tiny: ImageDataset) -> None:
    experience = permuted(tiny, tasks=1).train_stream[0]
    fast = make(Naive, [InMemoryLoader(seed=2)])
    by_hand = copy.deepcopy(fast.model)
    fast.train(experience)
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.1)
    order = epoch_order(40, (2, 0), 0).tolist()
    for x, y, _ in DataLoader(experience.dataset, batch_size=16, sampler=order):
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(x), y).backward()
        optimizer.step()
    for ours, theirs in zip(fast.model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_seed_may_be_an_integer_of_numpy(tiny: ImageDataset) -> None:
    seen = []
    for seed in (5, np.int64(5)):
        recorder = Recorder()
        make(Naive, [InMemoryLoader(seed=seed), recorder]).train(permuted(tiny, tasks=1).train_stream)
        seen.append(recorder.columns("train", 0)[0])
    assert torch.equal(*seen)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        InMemoryLoader(seed=-1)


def test_a_model_that_works_in_place_leaves_the_data_as_they_are(mnist10k: ImageDataset) -> None:
    benchmark = permuted(mnist10k, tasks=1)
    batches = TensorLoader(in_memory_columns(benchmark.test_stream[0].dataset.eval()), batch_size=8)
    before = next(iter(batches))[0].clone()
    next(iter(batches))[0].relu_()
    torch.testing.assert_close(next(iter(batches))[0], before, rtol=0, atol=0)
