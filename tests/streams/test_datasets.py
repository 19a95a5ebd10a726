import hashlib
import urllib.error
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ong.errors import UnknownNameError, UserError
from ong.streams import DATASETS, ImageDataset, datasets, load_dataset
from ong.streams.mnist_like import MNISTLike

from .conftest import FASHION_LABELS, idx_bytes

SYSTEM = Path("/usr/share/datasets/fashion-mnist")


def in_system_folder(folder: Path) -> MNISTLike:
    """Return Fashion-MNIST as if its system package put the files there."""
    return replace(datasets._FASHION, source=replace(datasets._FASHION.source, system_folder=folder))


@pytest.fixture
def no_system_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "_FASHION", in_system_folder(tmp_path / "absent"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make torchvision's downloads fail as they do without network; return the list of the folders tried."""
    import torchvision

    tried: list[str] = []

    def fail(root: str, download: bool) -> None:
        tried.append(root)
        cause = urllib.error.URLError("Name or service not known")
        raise RuntimeError(f"Error downloading images.gz:\nTried https://mirror/images.gz, got:\n{cause}\n")

    monkeypatch.setattr(torchvision.datasets, "FashionMNIST", fail)
    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    return tried


def test_mnist10k_is_the_packaged_archive_divided_by_the_stored_rows(mnist10k: ImageDataset) -> None:
    folder = Path(datasets.__file__).parent / "data"
    archive, rows = np.load(folder / "mnist10k.npz"), np.load(folder / "mnist10k-split.npz")
    assert (len(mnist10k.train_images), len(mnist10k.test_images)) == (8000, 2000)
    assert sorted([*rows["train"], *rows["test"]]) == list(range(10_000))
    assert np.array_equal(mnist10k.train_images.numpy(), archive["images"][rows["train"]])
    assert np.array_equal(mnist10k.test_images.numpy(), archive["images"][rows["test"]])
    assert np.array_equal(mnist10k.train_labels.numpy(), archive["labels"][rows["train"]])
    assert np.array_equal(mnist10k.test_labels.numpy(), archive["labels"][rows["test"]])


def test_mnist10k_never_changes(mnist10k: ImageDataset) -> None:
    digest = hashlib.sha256()
    for tensor in (
        mnist10k.train_images,
        mnist10k.train_labels,
        mnist10k.test_images,
        mnist10k.test_labels,
    ):
        digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest() == "a0bd7725f063671117e76828af31d345b932e076cf4a8d721adde8c21114ac6d"


def test_digits_keep_every_image_of_sklearn_once_and_every_fifth_of_a_class_tests(
    digits: ImageDataset,
) -> None:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    for label in range(10):
        ours = [
            digits.train_images[digits.train_labels == label],
            digits.test_images[digits.test_labels == label],
        ]
        theirs = np.rint(bunch.images[bunch.target == label] * 255 / 16)
        testing = np.arange(len(theirs)) % 5 == 4
        assert np.array_equal(ours[0].numpy(), theirs[~testing])
        assert np.array_equal(ours[1].numpy(), theirs[testing])


@pytest.mark.skipif(not SYSTEM.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_fashion_mnist_comes_from_the_system_package_with_its_known_counts() -> None:
    dataset = load_dataset("fashion-mnist")
    assert dataset.source == str(SYSTEM)
    assert torch.equal(dataset.train_labels.bincount(), torch.full((10,), 6000))
    assert torch.equal(dataset.test_labels.bincount(), torch.full((10,), 1000))
    assert dataset.test_labels[:5].tolist() == [9, 2, 1, 1, 6]


@pytest.mark.parametrize("layout", ["FashionMNIST/raw", "fashion-mnist", "."])
def test_data_root_is_read_in_every_layout_before_the_system_folder(
    idx_folder: Callable[..., Path], tmp_path: Path, layout: str
) -> None:
    folder = idx_folder(tmp_path / layout)
    dataset = load_dataset("fashion-mnist", tmp_path)
    assert dataset.source == str(folder)
    assert torch.equal(dataset.train_labels, torch.arange(30) % 10)
    assert dataset.test_images.shape == (20, 4, 4)


def test_mnist_is_read_from_torchvisions_layout(idx_folder: Callable[..., Path], tmp_path: Path) -> None:
    folder = idx_folder(tmp_path / "MNIST" / "raw", t10k_labels_idx1_ubyte=idx_bytes(MNIST_LABELS))
    assert load_dataset("mnist", str(tmp_path)).source == str(folder)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.usefixtures("no_system_folder")
def test_missing_data_name_the_three_ways_to_get_them(name: str, tmp_path: Path, offline: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(name, tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    for part in (
        f"'{name}' not found", "download failed", "Name or service not known",
        "four IDX files with --data-root", "into which it is downloaded", "--dataset mnist-10k",
    ):  # fmt: skip
        assert part in message
    assert ("dataset-fashion-mnist" in message) == (name == "fashion-mnist")
    assert offline == [str(tmp_path)]


@pytest.mark.parametrize("arguments", [{"data_root": None}, {"data_root": "here", "download": False}])
@pytest.mark.usefixtures("no_system_folder")
def test_nothing_is_downloaded_without_a_folder_or_permission(offline: list[str], arguments: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="not found"):
        load_dataset("fashion-mnist", **arguments)
    assert offline == []


def test_nothing_is_downloaded_when_the_files_are_there(
    idx_folder: Callable[..., Path], tmp_path: Path, offline: list[str]
) -> None:
    idx_folder()
    load_dataset("fashion-mnist", tmp_path)
    assert offline == []


def test_a_data_root_that_is_no_folder_is_not_passed_over(
    idx_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = idx_folder()
    monkeypatch.setattr(datasets, "_FASHION", in_system_folder(folder))
    assert load_dataset("fashion-mnist").source == str(folder)
    with pytest.raises(UserError, match=r"data root '.*/misspelt' is not a folder; 'fashion-mnist' is in '.*raw'"):
        load_dataset("fashion-mnist", tmp_path / "misspelt")
    with pytest.raises(UserError, match=r"data root '.*/misspelt' is not a folder; 'digits' is in 'sklearn\..*, read"):
        load_dataset("digits", tmp_path / "misspelt")


@pytest.mark.usefixtures("no_system_folder")
def test_a_download_is_read_from_where_torchvision_puts_it(
    idx_folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision

    monkeypatch.setattr(
        torchvision.datasets,
        "FashionMNIST",
        lambda root, download: idx_folder(Path(root) / "FashionMNIST" / "raw"),
    )
    assert load_dataset("fashion-mnist", tmp_path).source == str(tmp_path / "FashionMNIST" / "raw")


MNIST_LABELS = torch.tensor([7, 2, 1, 0, 4, 1, 4, 9, 5, 9] * 2)


@pytest.mark.parametrize(("asked", "labels"), [("mnist", FASHION_LABELS), ("fashion-mnist", MNIST_LABELS)])
def test_one_set_is_never_taken_for_the_other(
    idx_folder: Callable[..., Path], tmp_path: Path, asked: str, labels: torch.Tensor
) -> None:
    idx_folder(tmp_path, t10k_labels_idx1_ubyte=idx_bytes(labels))
    with pytest.raises(UserError, match=f"expected those of '{asked}'"):
        load_dataset(asked, tmp_path)
    idx_folder(tmp_path, t10k_labels_idx1_ubyte=idx_bytes(torch.arange(20) % 10))
    with pytest.raises(UserError, match=f"these are not the files of '{asked}', whose test labels begin with"):
        load_dataset(asked, tmp_path)


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        (
            {"train_labels_idx1_ubyte": idx_bytes(torch.zeros(29))},
            "train: found 29 labels for 30 images, expected as many",
        ),
        (
            {"t10k_labels_idx1_ubyte": idx_bytes(torch.full((20,), 10))},
            "test labels: found values 10 … 10, expected 0 … 9",
        ),
        (
            {"t10k_images_idx3_ubyte": idx_bytes(torch.zeros(20, 5, 4))},
            r"test images have size \(5, 4\), expected \(4, 4\)",
        ),
        (
            {"train_images_idx3_ubyte": idx_bytes(torch.zeros(0, 4, 4))},
            r"train images: found .* of shape \(0, 4, 4\), expected uint8 of \(N, H, W\) or \(N, C, H, W\)",
        ),
        ({"train_images_idx3_ubyte": b"junk"}, "train-images-idx3-ubyte: bad magic number"),
    ],
    ids=["label count", "label range", "image size", "no images", "junk"],
)
def test_files_that_contradict_each_other_are_refused(
    idx_folder: Callable[..., Path], tmp_path: Path, replaced: dict[str, bytes], message: str
) -> None:
    folder = idx_folder(**replaced)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset("fashion-mnist", tmp_path)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "not a zip", "other arrays", "repeated rows"])
def test_damaged_package_data_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    source = Path(datasets.__file__).parent / "data"
    (tmp_path / "data").mkdir()
    for name in ("mnist10k.npz", "mnist10k-split.npz"):
        (tmp_path / "data" / name).write_bytes((source / name).read_bytes())
    images, split = tmp_path / "data" / "mnist10k.npz", tmp_path / "data" / "mnist10k-split.npz"
    if damage == "truncated":
        images.write_bytes(images.read_bytes()[:5000])
    elif damage == "not a zip":
        images.write_bytes(b"hello")
    elif damage == "other arrays":
        np.savez(images, pictures=np.zeros(3))
    else:
        np.savez(split, train=np.zeros(8000, np.uint16), test=np.zeros(2000, np.uint16))
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    with pytest.raises(UserError, match=r"mnist10k(-split)?\.npz: "):
        load_dataset("mnist-10k")


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="unknown data set 'fashionmnist'; did you mean 'fashion-mnist'"):
        load_dataset("fashionmnist")


def test_every_data_set_has_one_line_of_description() -> None:
    assert all(entry.description and "\n" not in entry.description for entry in DATASETS.values())


def test_the_package_imports_without_avalanche_torchvision_and_sklearn() -> None:
    import subprocess
    import sys

    heavy = "{'avalanche', 'torchvision', 'sklearn'}"
    command = [sys.executable, "-c", f"import sys, ong.streams; print({heavy} & set(sys.modules))"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "set()"
