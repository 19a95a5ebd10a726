"""The readers, on small files in the true formats, against what was written and against torchvision's readers."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from formats import cifar_batch, images, pickled, write_cifar10, write_cifar100, write_svhn, write_tiny_imagenet
from PIL import Image

from ong.errors import UnknownNameError, UserError
from ong.streams import ImageDataset, load_dataset, map_style, stored

from .conftest import idx_bytes


def unchecked(dataset: Any) -> Any:
    """Return a class of torchvision's that takes files of other checksums than the published ones."""
    lists = {name: [[file, None] for file, _ in getattr(dataset, name)] for name in ("train_list", "test_list")}
    return type(dataset.__name__, (dataset,), lists | {"_load_meta": lambda self: None})


@pytest.mark.parametrize("layout", [".", "cifar10", "deep"])
def test_cifar10_is_what_its_batches_hold(tmp_path: Path, layout: str) -> None:
    parts = write_cifar10(tmp_path / layout if layout != "deep" else tmp_path / "cifar10")
    found = load_dataset("cifar10", tmp_path if layout != "." else tmp_path / "cifar-10-batches-py")
    batches = [f"data_batch_{k}" for k in range(1, 6)]
    assert np.array_equal(found.train_images, np.concatenate([parts[name] for name in batches]))
    assert np.array_equal(found.train_labels, np.concatenate([parts[f"{name} labels"] for name in batches]))
    assert np.array_equal(found.test_images, parts["test_batch"])
    assert (found.classes, found.channels, found.size) == (10, 3, (32, 32))
    theirs = unchecked(torchvision.datasets.CIFAR10)(root=str(Path(found.source).parent))
    assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), found.train_images)
    assert theirs.targets == found.train_labels.tolist()


def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path) -> None:
    parts = write_cifar100(tmp_path)
    fine, coarse = load_dataset("cifar100", tmp_path), load_dataset("cifar100", tmp_path, labels="coarse")
    assert np.array_equal(fine.train_images, parts["train"])
    assert torch.equal(fine.train_labels, torch.arange(200) % 100)
    assert torch.equal(coarse.test_labels, torch.arange(100) % 20)
    assert (fine.classes, coarse.classes) == (100, 20)
    theirs = unchecked(torchvision.datasets.CIFAR100)(root=str(tmp_path), train=False)
    assert np.array_equal(theirs.data.transpose(0, 3, 1, 2), fine.test_images)
    with pytest.raises(UnknownNameError, match="labels of cifar100 'corse'; did you mean 'coarse'"):
        load_dataset("cifar100", tmp_path, labels="corse")


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("run from a pickle",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "train: not a batch of CIFAR"),
        (b"", "train: not a batch of CIFAR"),
        (pickle.dumps({"data": Harmful()}, 2), r"not a batch of CIFAR \(it asks for .*print\)"),
        (pickled({"data": np.zeros((1, 3072), np.uint8)}), "has no 'fine_labels'; found data"),
        (b"\x80\x05\x96" + b"\xff" * 5 + bytes(3) + b".", r"not a batch of CIFAR"),  # a terabyte, it says
        (cifar_batch(np.zeros((1, 3, 8, 8), np.uint8), fine_labels=[0]), r"shape \(1, 192\), expected bytes of .*3072"),
        (cifar_batch(images(2, 32, 0), fine_labels=[0]), "found 1 labels for 2 images"),
        (cifar_batch(images(1, 32, 0), fine_labels=[100]), r"values 100 … 100, expected 0 … 99"),
    ],
)
def test_damaged_files_of_cifar_are_named_and_never_run(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_cifar100(tmp_path)
    (tmp_path / "cifar-100-python" / "train").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_dataset("cifar100", tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("layout", [".", "svhn", "SVHN"])
def test_svhn_is_what_its_mat_files_hold(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = write_svhn(tmp_path / layout)
    found = load_dataset("svhn", tmp_path)
    assert np.array_equal(found.train_images, parts["train"])
    assert found.test_labels.tolist() == [(1 + i) % 10 for i in range(20)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "_check_integrity", lambda self: True)
    theirs = torchvision.datasets.SVHN(str(tmp_path / layout), "test")
    assert np.array_equal(theirs.data, found.test_images)
    assert np.array_equal(theirs.labels, found.test_labels)
    (tmp_path / layout / "test_32x32.mat").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"test_32x32.mat: not a readable MATLAB file"):
        load_dataset("svhn", tmp_path)


@pytest.mark.parametrize(("split", "first", "classes"), [("letters", 1, 26), ("balanced", 0, 47)])
def test_emnist_is_turned_upright_and_counts_letters_from_0(
    tmp_path: Path, split: str, first: int, classes: int
) -> None:
    pictures = {
        part: torch.randint(256, (20, 5, 5), generator=torch.Generator().manual_seed(2)) for part in ("train", "test")
    }
    labels = first + torch.arange(20) % classes
    folder = tmp_path / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, values in pictures.items():
        (folder / f"emnist-{split}-{part}-images-idx3-ubyte").write_bytes(idx_bytes(values))
        (folder / f"emnist-{split}-{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    found = load_dataset("emnist", tmp_path, split=split)
    assert torch.equal(found.train_images, pictures["train"].mT.to(torch.uint8))
    assert torch.equal(found.test_labels, labels - first)
    assert found.classes == classes
    theirs = torchvision.datasets.EMNIST(str(tmp_path), split, train=False)
    assert torch.equal(theirs.data.mT, found.test_images)
    assert torch.equal(theirs.targets - first, found.test_labels)
    with pytest.raises(UnknownNameError, match="split of emnist 'leters'; did you mean 'letters'"):
        load_dataset("emnist", tmp_path, split="leters")
    with pytest.raises(UserError, match="'emnist' not found .* the four IDX files emnist-digits"):
        load_dataset("emnist", tmp_path, split="digits", download=False)


def test_kmnist_is_read_and_not_mistaken_for_mnist(idx_folder: Callable[..., Path], tmp_path: Path) -> None:
    others = torch.tensor([2, 9, 3, 8, 3, 9, 3, 8, 2, 7] * 2)
    folder = idx_folder(tmp_path / "KMNIST" / "raw", t10k_labels_idx1_ubyte=idx_bytes(others))
    assert load_dataset("kmnist", tmp_path).source == str(folder)
    idx_folder(folder)
    with pytest.raises(UserError, match="these are the files of 'fashion-mnist', expected those of 'kmnist'"):
        load_dataset("kmnist", tmp_path)


def test_tiny_imagenet_takes_validation_images_by_their_annotations(tmp_path: Path) -> None:
    colours = write_tiny_imagenet(tmp_path)["colours"]
    found = load_dataset("tiny-imagenet", tmp_path)
    assert found.train_images.shape == (12, 3, 64, 64)
    centres = found.train_images[:, :, 32, 32].numpy().astype(int)
    assert np.abs(centres - colours.reshape(-1, 3).astype(int)).max() <= 3  # JPEG
    assert found.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.test_labels.tolist() == [2, 1, 0] * 2
    assert np.abs(found.test_images[:, 0, 0, 0].numpy().astype(int) - np.arange(6)).max() <= 3
    (tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn1\t0\t0\t1\t1\n")
    with pytest.raises(UserError, match=r"val_annotations.txt: .*names no class of the training images"):
        load_dataset("tiny-imagenet", tmp_path)


def write_folder(root: Path, sizes: list[tuple[int, int]] = [(6, 6)], classes: str = "ab") -> None:  # noqa: B006
    """Write an image folder; class k's images are of grey level 100 k + i."""
    for part in ("train", "test"):
        for kind, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(3):
                level = 100 * kind + i
                Image.new("RGB", sizes[i % len(sizes)], (level,) * 3).save(root / part / name / f"{i}.png")


def test_an_image_folder_is_read_by_its_classes(tmp_path: Path) -> None:
    write_folder(tmp_path / "mine")
    found = load_dataset("image-folder", tmp_path, path="mine", channels=1)
    assert found.train_images.shape == (6, 1, 6, 6)
    assert found.train_images[:, 0, 3, 3].tolist() == [0, 1, 2, 100, 101, 102]
    assert found.test_labels.tolist() == [0, 0, 0, 1, 1, 1]
    write_folder(tmp_path / "odd", classes="abc")
    (tmp_path / "odd" / "test" / "c").rename(tmp_path / "odd" / "test" / "d")
    with pytest.raises(UserError, match="different classes: c, d"):
        load_dataset("image-folder", tmp_path, path="odd")
    with pytest.raises(UserError, match="no folder with a folder of images a class"):
        load_dataset("image-folder", tmp_path, path="nowhere")


def test_images_of_different_sizes_need_one(tmp_path: Path) -> None:
    write_folder(tmp_path, [(6, 6), (9, 12)])
    with pytest.raises(
        UserError, match=r"image 1 has shape \(3, 12, 9\), the first one \(3, 6, 6\); give the data set a size"
    ):
        load_dataset("image-folder", tmp_path)
    found = load_dataset("image-folder", tmp_path, size=4)
    assert found.train_images.shape == (6, 3, 4, 4)
    assert found.train_images[1].unique().tolist() == [1]


def test_what_does_not_fit_in_memory_is_read_when_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_imagenet(tmp_path)
    whole = load_dataset("tiny-imagenet", tmp_path)
    monkeypatch.setattr(map_style, "fits_in_memory", lambda size: False)
    monkeypatch.setattr(stored, "_CHUNK", 5)
    files = load_dataset("tiny-imagenet", tmp_path)
    assert isinstance(files.train_images, stored.StoredImages)
    rows = torch.tensor([1, 0])
    for change in (
        lambda d: d,
        lambda d: d.padded(2),
        lambda d: d.fitted(20, 1).padded(1),
        ImageDataset.for_validation,
    ):
        ours, theirs = change(files), change(whole)
        assert ours.train_images.shape == theirs.train_images.shape
        assert torch.equal(stored.decoded(ours.train_images), theirs.train_images)
        assert torch.equal(stored.decoded(ours.test_images[rows]), theirs.test_images[rows])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "kmnist", "emnist", "tiny-imagenet"])
def test_missing_data_name_the_ways_to_get_them_and_the_official_address(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_dataset(name, tmp_path, download=False)
    message = str(caught.value)
    assert "\n" not in message
    for part in (f"'{name}' not found", "with --data-root", "official address: http", "into which it is downloaded"):
        assert part in message
    assert ("--dataset mnist-10k" in message) == (name == "kmnist")  # which is embedded, and grey


@pytest.mark.parametrize("name", ["cifar100", "mnist"])
def test_pipes_in_the_place_of_data_are_not_read(name: str, tmp_path: Path) -> None:
    for file in ("train", "test", "train-images-idx3-ubyte"):
        os.mkfifo(tmp_path / file)
    with pytest.raises(UserError, match=f"'{name}' not found"):
        load_dataset(name, tmp_path, download=False)


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100", "SVHN", "KMNIST", "EMNIST"])
def test_torchvision_downloads_into_the_data_root(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def fetch(root: str, **options: Any) -> None:
        asked.append((root, options["download"]))
        raise RuntimeError("no network")

    monkeypatch.setattr(torchvision.datasets, name, fetch)
    with pytest.raises(UserError, match="the download failed: no network"):
        load_dataset(name.lower(), tmp_path)
    assert asked[0] == (str(tmp_path), True)


def test_unknown_and_wrong_options_of_a_data_set_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="option of data set 'cifar100' 'label'; did you mean 'labels'"):
        load_dataset("cifar100", tmp_path, label="coarse")
    with pytest.raises(UserError, match="size is '8', expected a whole number"):
        load_dataset("digits", size="8")
    with pytest.raises(UserError, match="channels is 2, expected 1"):
        load_dataset("digits", channels=2)
