import warnings
from typing import Any

import numpy as np
import pytest
import torch

from ong.errors import UnknownNameError, UserError
from ong.streams import ImageDataset, output_count, permuted, rotated, split
from ong.streams.transforms import Normalisation, pixel_permutations, rotate

from .conftest import same, tensors


def test_permuted_applies_one_permutation_to_train_and_test_and_keeps_labels(tiny: ImageDataset) -> None:
    benchmark = permuted(tiny, tasks=3, seed=5)
    normalise = Normalisation(tiny)
    for task, permutation in enumerate(pixel_permutations(36, 3, 5)):
        for stream, images, labels in (
            (benchmark.train_stream, tiny.train_images, tiny.train_labels),
            (benchmark.test_stream, tiny.test_images, tiny.test_labels),
        ):
            x, y, t = tensors(stream[task])
            assert torch.equal(x.flatten(1), normalise(images).flatten(1)[:, permutation])
            assert torch.equal(y, labels)
            assert t.unique().tolist() == [0]


@pytest.mark.parametrize(
    ("options", "angles"),
    [
        ({"tasks": 4}, [0, 30, 60, 90]),
        ({"tasks": 3, "max_angle": 40}, [0, 20, 40]),
        ({"tasks": 1}, [0]),
        ({"angles": [10, -5.5]}, [10, -5.5]),
    ],
)
def test_rotated_normalises_rotated_grey_levels(
    tiny: ImageDataset, options: dict[str, Any], angles: list[float]
) -> None:
    benchmark = rotated(tiny, **options)
    normalise = Normalisation(tiny)
    assert len(benchmark.train_stream) == len(benchmark.test_stream) == len(angles)
    for task, angle in enumerate(angles):
        x, y, _ = tensors(benchmark.test_stream[task])
        assert torch.equal(x, normalise(rotate(tiny.test_images, angle)))
        assert torch.equal(y, tiny.test_labels)


@pytest.mark.parametrize("build", [permuted, rotated])
def test_padding_is_background_before_anything_else_happens(tiny: ImageDataset, build: Any) -> None:
    padded = torch.zeros(len(tiny.train_images), 10, 10, dtype=torch.uint8)
    padded[:, 2:-2, 2:-2] = tiny.train_images
    (experience,) = build(tiny, tasks=1, padding=2).train_stream
    x, _, _ = tensors(experience)
    assert torch.equal(x, Normalisation(tiny.padded(2))(padded))
    with pytest.raises(UserError, match="padding is -1"):
        build(tiny, padding=-1)


def test_rotated_has_ten_tasks_by_default(tiny: ImageDataset) -> None:
    assert len(rotated(tiny).train_stream) == 10


@pytest.mark.parametrize("scenario", ["domain", "class", "task"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_split_gives_each_task_the_images_of_its_two_classes_and_their_labels(
    digits: ImageDataset, scenario: str, shuffle: bool
) -> None:
    benchmark = split(digits, scenario=scenario, seed=1, shuffle_classes=shuffle)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1)).tolist() if shuffle else list(range(10))
    normalise = Normalisation(digits)
    for task, (first, second) in enumerate(zip(order[::2], order[1::2], strict=True)):
        rows = [i for i, label in enumerate(digits.train_labels.tolist()) if label in (first, second)]
        original = digits.train_labels[rows]
        expected = {
            "class": original,
            "domain": torch.tensor([(first, second).index(label) for label in original.tolist()]),
        }
        x, y, t = tensors(benchmark.train_stream[task])
        assert torch.equal(x, normalise(digits.train_images[rows]))
        assert torch.equal(y, expected.get(scenario, expected["domain"]))
        assert t.unique().tolist() == [task if scenario == "task" else 0]


def test_split_with_fewer_tasks_leaves_later_classes_out(digits: ImageDataset) -> None:
    benchmark = split(digits, tasks=2, scenario="class")
    assert [e.classes_in_this_experience for e in benchmark.test_stream] == [[0, 1], [2, 3]]


def test_only_task_incremental_experiences_tell_the_task(digits: ImageDataset) -> None:
    told = split(digits, tasks=2, scenario="task")
    assert [e.task_labels for e in told.train_stream] == [[0], [1]]
    for benchmark in (
        split(digits, tasks=2),
        split(digits, tasks=2, scenario="class"),
        permuted(digits, tasks=2),
    ):
        assert not any(hasattr(e, "task_labels") for e in benchmark.train_stream)


@pytest.mark.parametrize(
    ("scenario", "current", "future", "outputs"),
    [
        ("class", [[0, 1], [2, 3]], [[2, 3], []], 4),
        ("domain", [[0, 1], [0, 1]], [[], []], 2),
        ("task", [[0, 1], [0, 1]], [[], []], 2),
    ],
)
def test_classes_timeline_matches_the_labels(
    digits: ImageDataset, scenario: str, current: list[list[int]], future: list[list[int]], outputs: int
) -> None:
    benchmark = split(digits, tasks=2, scenario=scenario)
    for stream in (benchmark.train_stream, benchmark.test_stream):
        assert [e.classes_in_this_experience for e in stream] == current
        assert [e.future_classes for e in stream] == future
        assert [e.current_experience for e in stream] == [0, 1]
    assert output_count(benchmark) == outputs


def test_data_attributes_match_the_items(digits: ImageDataset) -> None:
    for experience in split(digits, tasks=2, scenario="task").train_stream:
        _, y, t = tensors(experience)
        assert list(experience.dataset.targets) == y.tolist()
        assert list(experience.dataset.targets_task_labels) == t.tolist()


def test_streams_are_reproducible_and_seeds_matter(tiny: ImageDataset) -> None:
    assert same(permuted(tiny, tasks=2, seed=1), permuted(tiny, tasks=2, seed=1))
    assert not same(permuted(tiny, tasks=2, seed=1), permuted(tiny, tasks=2, seed=2))
    assert same(rotated(tiny, tasks=2), rotated(tiny, tasks=2))
    shuffled = {"tasks": 2, "scenario": "class", "shuffle_classes": True}
    assert same(split(tiny, seed=1, **shuffled), split(tiny, seed=1, **shuffled))
    assert not same(split(tiny, seed=1, **shuffled), split(tiny, seed=2, **shuffled))


def test_streams_draw_nothing_from_the_global_generators(tiny: ImageDataset) -> None:
    import random

    def states() -> tuple[Any, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002

    before = states()
    permuted(tiny, tasks=2, seed=1)
    rotated(tiny, tasks=2)
    split(tiny, tasks=2, shuffle_classes=True)
    assert states() == before


@pytest.mark.parametrize(
    ("build", "numbers"),
    [
        (permuted, {"tasks": np.int32(2), "seed": np.int64(1)}),
        (rotated, {"tasks": np.uint8(3), "max_angle": np.float32(45)}),
        (rotated, {"angles": [np.int64(10), np.float64(5.5)]}),
        (split, {"tasks": np.int64(2), "seed": np.uint64(3), "shuffle_classes": True}),
    ],
)
def test_numbers_of_numpy_count_as_pythons(tiny: ImageDataset, build: Any, numbers: dict[str, Any]) -> None:
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in numbers.items()}
    assert same(build(tiny, **numbers), build(tiny, **plain))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (permuted, {"tasks": 0}, "tasks is 0, expected a whole number of at least 1"),
        (permuted, {"tasks": 2.0}, "tasks is 2.0, expected a whole number"),
        (permuted, {"tasks": True}, "tasks is True, expected a whole number"),
        (permuted, {"seed": -1}, "seed is -1, expected a whole number of at least 0"),
        (permuted, {"seed": 2**63}, "expected less than"),
        (permuted, {"seed": np.int64(-1)}, "expected a whole number of at least 0"),
        (permuted, {"seed": np.bool_(True)}, "expected a whole number of at least 0"),
        (permuted, {"seed": np.float64(1)}, "expected a whole number of at least 0"),
        (permuted, {"seed": np.uint64(2**63)}, "expected less than"),
        (permuted, {"first_identity": "no"}, "first_identity is 'no', expected true or false"),
        (rotated, {"tasks": 0}, "tasks is 0, expected"),
        (rotated, {"max_angle": float("nan")}, "max_angle is nan, expected degrees"),
        (rotated, {"angles": []}, "expected a list of at least one angle"),
        (rotated, {"angles": "abc"}, "expected a list of at least one angle"),
        (rotated, {"angles": [0, "x"]}, "angles holds 'x'"),
        (rotated, {"tasks": 3, "angles": [0, 1]}, "tasks is 3 but 2 angles are given"),
        (split, {"tasks": 3}, "3 tasks of 2 classes take 6, but data set 'tiny' has 5; expected fewer tasks"),
        (split, {"classes_per_task": 6}, "1 tasks of 6 classes take 6"),
        (split, {"tasks": -1}, "tasks is -1, expected"),
        (split, {"tasks": 2, "seed": -1}, "seed is -1, expected"),
        (split, {"tasks": 2, "shuffle_classes": 1}, "shuffle_classes is 1, expected true or false"),
    ],
)  # fmt: skip
def test_bad_options_are_named_with_what_is_expected(
    tiny: ImageDataset, build: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build(tiny, **options)
    assert message in str(caught.value)


def test_unknown_scenario_gets_the_nearest(tiny: ImageDataset) -> None:
    with pytest.raises(UnknownNameError, match="unknown scenario 'domains'; did you mean 'domain'"):
        split(tiny, tasks=2, scenario="domains")


def test_classes_that_no_task_takes_are_told(tiny: ImageDataset) -> None:
    with pytest.warns(UserWarning, match=r"leave out 1 of data set 'tiny's 5; classes_per_task = \[2, 2, 1\]"):
        assert len(split(tiny).train_stream) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        split(tiny, tasks=2)
        split(tiny, classes_per_task=[2, 2, 1])
