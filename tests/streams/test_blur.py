"""Neighbouring tasks that have exchanged examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ong.errors import UserError
from ong.experiments.jobs import perform
from ong.experiments.plan import plan
from ong.streams import build_stream, load_dataset
from ong.streams.experiences.columns import in_memory_columns
from ong.streams.images import ImageDataset


def inputs(experience: Any) -> torch.Tensor:
    return torch.stack([item[0] for item in experience.dataset]).flatten(1)


def rows(experience: Any) -> set[tuple[float, ...]]:
    return set(map(tuple, inputs(experience).tolist()))


@pytest.fixture(scope="module")
def digits() -> ImageDataset:
    return load_dataset("digits")


def test_each_boundary_exchanges_its_share_and_no_example_is_lost_or_goes_twice(digits: ImageDataset) -> None:
    plain, mixed = (build_stream("permuted", digits, 3, tasks=3, **more) for more in ({}, {"blur": 0.1}))
    before, after = ([rows(e) for e in stream.train_stream] for stream in (plain, mixed))
    count = len(digits.train_labels) // 10
    moved = [[len(here & there) for there in before] for here in after]
    assert [moved[0][1], moved[1][0], moved[1][2], moved[2][1]] == [count] * 4
    assert moved[0][2] == moved[2][0] == 0
    assert [len(e.dataset) for e in mixed.train_stream] == [len(digits.train_labels)] * 3
    for old, new in zip(plain.test_stream, mixed.test_stream, strict=True):
        assert torch.equal(inputs(old), inputs(new))


def test_labels_go_with_their_inputs_and_batches_are_still_gathered_at_once(digits: ImageDataset) -> None:
    plain, mixed = (build_stream("rotated", digits, 3, tasks=2, **more) for more in ({}, {"blur": 0.5}))
    label = {tuple(item[0].flatten().tolist()): item[1] for e in plain.train_stream for item in e.dataset}
    for experience in mixed.train_stream:
        assert all(label[tuple(item[0].flatten().tolist())] == item[1] for item in experience.dataset)
        assert list(experience.dataset.targets) == [int(item[1]) for item in experience.dataset]
        assert in_memory_columns(experience.dataset) is not None


def test_the_seed_decides_who_goes(digits: ImageDataset) -> None:
    first, again, other = (build_stream("rotated", digits, seed, tasks=2, blur=0.2) for seed in (1, 1, 2))
    assert torch.equal(inputs(first.train_stream[0]), inputs(again.train_stream[0]))
    assert rows(first.train_stream[0]) != rows(other.train_stream[0])
    plain = build_stream("rotated", digits, 1, tasks=2, blur=0)
    assert torch.equal(
        inputs(plain.train_stream[0]), inputs(build_stream("rotated", digits, 1, tasks=2).train_stream[0])
    )


@pytest.mark.parametrize("blur", [-0.1, 0.6, True, "0.1", float("nan")])
def test_other_shares_are_refused(digits: ImageDataset, blur: object) -> None:
    with pytest.raises(UserError, match=r"expected a share of each task's examples above 0 and up to 0\.5"):
        build_stream("rotated", digits, 0, tasks=2, blur=blur)


@pytest.mark.parametrize(("tasks", "blur"), [(1, 0.5), (2, 1e-6)])
def test_a_blur_that_exchanges_nothing_is_told(digits: ImageDataset, tasks: int, blur: float) -> None:
    with pytest.raises(UserError, match=r"no two tasks of \[1442.*\] examples have one to exchange"):
        build_stream("rotated", digits, 0, tasks=tasks, blur=blur)


@pytest.mark.parametrize("scenario", ["class", "task"])
def test_tasks_with_labels_of_their_own_are_refused(digits: ImageDataset, scenario: str) -> None:
    with pytest.raises(UserError, match="blur is for tasks that share their labels"):
        build_stream("split", digits, 0, tasks=2, scenario=scenario, blur=0.1)


def test_a_run_learns_from_it(tmp_path: Path) -> None:
    changes = {"stream.blur": 0.5, "stream.tasks": 2, "training.epochs": 5}
    (job,) = plan("permuted-digits", ["ogd"], [0], changes, out=tmp_path)
    record = perform(job).record
    assert record is not None
    assert record["benchmark"]["stream"]["blur"] == 0.5
    assert record["accuracy_matrix"][1][1] > 0.3  # before its own turn: it has seen half of task 1's examples
