from typing import Any

import numpy as np
import pytest

from ong import streams
from ong.errors import UnknownNameError, UserError
from ong.streams import STREAMS, ImageDataset, build_stream, permuted_mnist, rotated_mnist, split_mnist

from .conftest import same


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("permuted", {"tasks": 2, "first_identity": False}),
        ("rotated", {"angles": [5, 15]}),
        ("split", {"tasks": 2, "scenario": "class", "shuffle_classes": True}),
    ],
)
def test_a_stream_by_name_is_what_its_builder_makes(tiny: ImageDataset, name: str, options: dict[str, Any]) -> None:
    seed = {} if name == "rotated" else {"seed": 4}
    assert same(build_stream(name, tiny, 4, **options), getattr(streams, name)(tiny, **seed, **options))


def test_a_seed_may_be_an_integer_of_numpy(tiny: ImageDataset) -> None:
    assert same(build_stream("permuted", tiny, np.int64(4), tasks=2), build_stream("permuted", tiny, 4, tasks=2))
    assert same(
        permuted_mnist(dataset="digits", tasks=2, seed=np.int64(1)), permuted_mnist(dataset="digits", tasks=2, seed=1)
    )


def test_options_of_a_recipe_do_not_include_the_seed() -> None:
    assert STREAMS["permuted"].options == ("tasks", "first_identity", "padding")
    assert STREAMS["rotated"].options == ("tasks", "max_angle", "angles", "padding")
    assert STREAMS["split"].options == ("tasks", "scenario", "shuffle_classes", "classes_per_task")
    assert STREAMS["sequence"].options == ("scenario", "size", "channels")
    assert [entry.seeded for entry in STREAMS.values()] == [True, False, True, False]
    assert all("\n" not in entry.description for entry in STREAMS.values())


def test_unknown_stream_and_option_get_the_nearest(tiny: ImageDataset) -> None:
    with pytest.raises(UnknownNameError, match="unknown stream 'permute'; did you mean 'permuted'"):
        build_stream("permute", tiny, 0)
    with pytest.raises(UnknownNameError, match="option of stream 'permuted' 'task'; did you mean 'tasks'"):
        build_stream("permuted", tiny, 0, task=3)
    with pytest.raises(UserError, match="seed is -1"):
        build_stream("rotated", tiny, -1)


@pytest.mark.parametrize(
    ("function", "name", "options"),
    [
        (permuted_mnist, "permuted", {"tasks": 2}),
        (rotated_mnist, "rotated", {"tasks": 2}),
        (split_mnist, "split", {"scenario": "class"}),
    ],
)
def test_ready_made_streams_are_those_of_the_registry(
    digits: ImageDataset, function: Any, name: str, options: dict[str, Any]
) -> None:
    assert same(function(dataset="digits", **options), build_stream(name, digits, 0, **options))


def test_ready_made_streams_are_of_embedded_mnist_by_default() -> None:
    benchmark = split_mnist()
    assert sum(len(e.dataset) for e in benchmark.train_stream) == 8000
    assert sum(len(e.dataset) for e in benchmark.test_stream) == 2000
