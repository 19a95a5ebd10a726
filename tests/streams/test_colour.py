"""Colour images in the streams, sequences of data sets, tasks of many classes, and inputs that are not held in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from avalanche.training.supervised import Cumulative, Naive
from torchvision.transforms.v2 import functional

from ong.errors import UnknownNameError, UserError
from ong.streams import (
    ImageDataset,
    InMemoryLoader,
    build_stream,
    from_items,
    output_count,
    permuted,
    rotated,
    sequence,
    split,
    stored,
)
from ong.streams.experiences.columns import PreparedDataset, in_memory_columns
from ong.streams.images import fitted
from ong.streams.transforms import Normalisation, permute_pixels, pixel_permutations, rotate

from .conftest import same, tensors
from .test_loader import Recorder, make, stock


def images(name: str = "rgb", shape: tuple[int, ...] = (3, 6, 6), classes: int = 7, seed: int = 0) -> ImageDataset:
    generator = torch.Generator().manual_seed(seed)
    train, test = (torch.randint(256, (n, *shape), generator=generator).to(torch.uint8) for n in (42, 21))
    train[:, -1] //= 4  # the last channel, or row, is darker
    return ImageDataset(name, train, torch.arange(42) % classes, test, torch.arange(21) % classes, classes, "test")


@pytest.fixture
def rgb() -> ImageDataset:
    return images()


def test_each_channel_is_normalised_by_its_own_training_pixels(rgb: ImageDataset) -> None:
    normalise = Normalisation(rgb)
    pixels = rgb.train_images.numpy().astype(np.float64)
    mean, std = (getattr(pixels, name)((0, 2, 3)) for name in ("mean", "std"))
    np.testing.assert_allclose(normalise.mean, mean, rtol=1e-12)
    np.testing.assert_allclose(normalise.std, std, rtol=1e-12)
    expected = (rgb.test_images.numpy() - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(normalise(rgb.test_images), expected, atol=1e-6)  # float32


def test_a_channel_without_contrast_is_centred(rgb: ImageDataset) -> None:
    rgb.train_images[:, 1] = rgb.test_images[:, 1] = 9
    assert not Normalisation(rgb)(rgb.test_images)[:, 1].any()


def test_pixels_of_all_channels_are_permuted_together(rgb: ImageDataset) -> None:
    x, _, _ = tensors(permuted(rgb, tasks=2, seed=3).test_stream[1])
    order = pixel_permutations(36, 2, 3)[1]
    assert torch.equal(x.flatten(2), Normalisation(rgb)(rgb.test_images).flatten(2)[:, :, order])


def test_colours_rotate_channel_by_channel(rgb: ImageDataset) -> None:
    turned = rotate(rgb.test_images, 30)
    for channel in range(3):
        assert torch.equal(turned[:, channel], rotate(rgb.test_images[:, channel], 30))


@pytest.mark.parametrize("scenario", ["class", "domain", "task"])
@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"classes_per_task": 3}, [3, 3]),
        ({"classes_per_task": [4, 1, 2]}, [4, 1, 2]),
        ({"tasks": 1, "classes_per_task": 7}, [7]),
        ({}, [2, 2, 2]),
    ],
)
def test_a_split_has_the_sizes_and_labels_asked_for(
    rgb: ImageDataset, scenario: str, options: dict[str, Any], sizes: list[int]
) -> None:
    benchmark = split(rgb, scenario=scenario, seed=2, shuffle_classes=True, **options)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2)).tolist()
    starts = np.cumsum([0, *sizes])
    for task, (start, size) in enumerate(zip(starts, sizes, strict=False)):
        own = order[start : start + size]
        rows = [i for i, label in enumerate(rgb.train_labels.tolist()) if label in own]
        x, y, t = tensors(benchmark.train_stream[task])
        labels = rgb.train_labels[rows].tolist()
        assert torch.equal(x, Normalisation(rgb)(rgb.train_images[rows]))
        assert y.tolist() == (labels if scenario == "class" else [own.index(label) for label in labels])
        assert t.unique().tolist() == [task if scenario == "task" else 0]
    assert len(benchmark.train_stream) == len(sizes)
    assert output_count(benchmark) == (1 + max(order[: sum(sizes)]) if scenario == "class" else max(sizes))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes_per_task": [4, 4]}, r"2 tasks of \[4, 4\] classes take 8, but data set 'rgb' has 7"),
        ({"classes_per_task": [2, 2], "tasks": 3}, "tasks is 3 but classes_per_task lists 2"),
        ({"classes_per_task": []}, "classes_per_task lists 0"),
        ({"classes_per_task": 0}, "classes_per_task is 0, expected a whole number"),
        ({"classes_per_task": "two"}, "classes_per_task is 'two', expected a whole number"),
    ],
)
def test_wrong_sizes_of_a_split_are_named(rgb: ImageDataset, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        split(rgb, **options)


@pytest.mark.parametrize(("scenario", "starts"), [("class", [0, 7, 10]), ("domain", [0, 0, 0]), ("task", [0, 0, 0])])
def test_a_sequence_brings_data_sets_to_one_form_and_offsets_labels(
    rgb: ImageDataset, scenario: str, starts: list[int]
) -> None:
    datasets = [rgb, images("grey", (8, 10), 3, 1), images("small", (1, 4, 4), 2, 2)]
    benchmark = sequence(datasets, scenario=scenario)
    for task, (dataset, start) in enumerate(zip(datasets, starts, strict=True)):
        x, y, t = tensors(benchmark.test_stream[task])
        assert x.shape[1:] == (3, 10, 10)  # the longest side, colours
        assert torch.equal(y, dataset.test_labels + start)
        assert t.unique().tolist() == [task if scenario == "task" else 0]
        whole, _, _ = tensors(benchmark.train_stream[task])
        assert whole.mean((0, 2, 3)).abs().max() < 1e-5  # float32; each has its own mean and deviation
        assert (whole.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    assert tensors(sequence(datasets, size=5, channels=1).train_stream[0])[0].shape == (42, 1, 5, 5)
    assert same(build_stream("sequence", datasets, 3, scenario=scenario), benchmark)


def test_sequences_take_lists_and_other_streams_one_data_set(rgb: ImageDataset) -> None:
    with pytest.raises(UserError, match="stream 'sequence' takes a list of data sets, got one"):
        build_stream("sequence", rgb, 0)
    with pytest.raises(UserError, match="stream 'split' takes one data set, got a list"):
        build_stream("split", [rgb, rgb], 0)
    with pytest.raises(UserError, match="at least two data sets"):
        sequence([rgb])
    with pytest.raises(UnknownNameError, match="unknown scenario 'tasks'; did you mean 'task'"):
        sequence([rgb, rgb], scenario="tasks")
    with pytest.raises(UserError, match="channels 2, expected"):
        sequence([rgb, rgb], channels=2)


def test_images_are_fitted_by_torchvisions_resize_and_crop() -> None:
    x = torch.randint(256, (2, 3, 9, 12), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert torch.equal(fitted(x, 6, None), functional.center_crop(functional.resize(x, [6]), [6, 6]))
    luma = (x.double() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert (fitted(x, None, 1).double() - luma).abs().max() < 0.55  # rounding, and torchvision's .2989 for red
    grey = x[:, :1]
    assert torch.equal(fitted(fitted(grey, None, 3), None, 1), grey)
    with pytest.raises(UserError, match="images of 2 channels cannot become ones of 3"):
        fitted(x[:, :2], None, 3)


STREAMS = {
    "permuted": lambda d: permuted(d, tasks=2, seed=1, padding=1),
    "rotated": lambda d: rotated(d, tasks=3),
    "split": lambda d: split(d, scenario="class", classes_per_task=[3, 2]),
    "sequence": lambda d: sequence([d, images("grey", (8, 8), 3, 1)]),
}


@pytest.mark.parametrize("shape", [(3, 6, 6), (6, 6)])
@pytest.mark.parametrize("name", STREAMS)
def test_inputs_that_are_not_held_are_the_same_to_the_bit(
    name: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    held = STREAMS[name](images(shape=shape))
    monkeypatch.setattr(stored, "fits_in_memory", lambda size: False)
    lazy = STREAMS[name](images(shape=shape))
    assert same(held, lazy)
    parts = lazy.train_stream[1].dataset._flat_data._datasets
    assert isinstance(parts[0], PreparedDataset)
    assert isinstance(parts[0].tensors[0], stored.PreparedImages)
    rows = torch.tensor([3, 0, 7])
    for task in range(2):
        ours, theirs = (in_memory_columns(b.train_stream[task].dataset) for b in (lazy, held))
        assert torch.equal(ours[0][rows], theirs[0][rows])
        assert torch.equal(ours[0][2:5], theirs[0][2:5])


@pytest.mark.parametrize("kind", [Naive, Cumulative])
def test_training_from_inputs_that_are_not_held_is_the_same_to_the_bit(
    rgb: ImageDataset, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, batches = [], []
    for fits in (True, False):
        monkeypatch.setattr(stored, "fits_in_memory", lambda size, fits=fits: fits)
        recorder = Recorder()
        strategy = make(kind, [InMemoryLoader(seed=1), recorder], inputs=108, outputs=7)
        for experience in split(rgb, scenario="class").train_stream:
            strategy.train(experience)
        weights.append(strategy.model[1].weight.detach())
        batches.append(recorder.columns("train", 2))
    assert torch.equal(*weights)
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_a_stock_loader_reads_what_is_not_held(rgb: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stock(split(rgb).train_stream[0].dataset)
    monkeypatch.setattr(stored, "fits_in_memory", lambda size: False)
    assert all(torch.equal(a, b) for a, b in zip(stock(split(rgb).train_stream[0].dataset), expected, strict=True))


def test_what_fits_is_a_quarter_of_the_memory_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 400}))
    assert stored.fits_in_memory(100)
    assert not stored.fits_in_memory(101)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.full((2, 2), 7, np.uint8), torch.full((1, 2, 2), 7)),
        (
            np.dstack([np.full((2, 2), k, np.uint8) for k in (1, 2, 3)]),
            torch.tensor([1, 2, 3])[:, None, None].expand(3, 2, 2),
        ),
        (torch.full((2, 2), 0.5), torch.full((1, 2, 2), 128)),
        (torch.full((3, 2, 2), 9, dtype=torch.uint8), torch.full((3, 2, 2), 9)),
    ],
)
def test_items_may_be_arrays_or_tensors(image: Any, expected: torch.Tensor) -> None:
    found = from_items("mine", [(image, 0), (image, 1)], [(image, 1)], "here")
    assert torch.equal(found.train_images[1], expected.to(torch.uint8))
    assert (found.classes, found.train_labels.tolist()) == (2, [0, 1])


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([], "0 training and 1 test examples"),
        ([("text", 0)], "an image is str, expected a PIL image"),
        ([(torch.randn(3, 2, 2), 0)], "an image is torch.float32 of -.*leave normalisation to the stream"),
        ([(torch.zeros(1, 3, 2, 2), 0)], r"an image is a tensor of shape \(1, 3, 2, 2\)"),
        ([(torch.zeros(2, 2), "cat")], "a label is not a whole number"),
        ([(torch.zeros(2, 2), 0), (torch.zeros(2, 3), 0)], "image 1 has shape .*give the data set a size"),
    ],
)
def test_items_that_are_no_images_are_named(items: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_items("mine", items, [(torch.zeros(2, 2), 0)], "here")


def test_grey_images_are_normalised_to_the_bit_as_before(digits: ImageDataset) -> None:
    """Published records rest on this arithmetic: scalars of Python, taken off and divided by."""
    counts = torch.bincount(digits.train_images.flatten(), minlength=256).double()
    levels, share = torch.arange(256, dtype=torch.float64), counts / counts.sum()
    mean = float(share @ levels)
    std = float(share @ (levels - mean) ** 2) ** 0.5
    expected = ((digits.test_images.float() - mean) / std).unsqueeze(1)
    assert torch.equal(Normalisation(digits)(digits.test_images), expected)
    order = torch.randperm(64)
    whole = Normalisation(digits)(permute_pixels(digits.test_images, order))
    assert torch.equal(whole, permute_pixels(expected.squeeze(1), order).unsqueeze(1))
