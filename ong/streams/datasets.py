"""The data sets by name.

``mnist-10k`` and ``digits`` need no file beside the installed packages. The others are read from ``data_root``, or from
Debian's folder where there is a package, and downloaded into ``data_root`` when they are absent.
"""

from __future__ import annotations

import inspect
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ong.errors import UnknownNameError, UserError
from ong.streams.colour import load_cifar100
from ong.streams.folders import load_image_folder
from ong.streams.images import ImageDataset
from ong.streams.mnist_like import load_emnist, load_mnist_like, mnist_like
from ong.streams.registry import DATASETS, DatasetEntry, dataset

__all__ = ["checked_channels", "checked_size", "load_dataset"]


def _read_npz(name: str, *keys: str) -> list[np.ndarray]:
    """Return the arrays ``keys`` of a packaged ``.npz`` file; ``UserError`` when it is damaged."""
    with resources.as_file(resources.files("ong.streams") / "data" / name) as path:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = [archive[key] for key in keys]
        except KeyError as error:
            raise UserError(f"{path}: {error.args[0]}; expected the arrays {', '.join(keys)}") from None
        except Exception as error:  # NumPy's and zipfile's readers trip over damaged files in many ways
            raise UserError(f"{path}: not a readable .npz file ({error}); install ong again") from None
        if other := [key for key, array in zip(keys, arrays, strict=True) if array.dtype.kind != "u"]:
            raise UserError(f"{path}: '{other[0]}' holds other values than unsigned integers; install ong again")
    return arrays


@dataset("mnist-10k", "10,000 MNIST digits of 28×28, 8,000 to train and 2,000 to test; embedded in the package")
def _mnist_10k(data_root: Path | None, download: bool) -> ImageDataset:
    images, labels = (torch.from_numpy(array) for array in _read_npz("mnist10k.npz", "images", "labels"))
    splits = _read_npz("mnist10k-split.npz", "train", "test")
    train, test = (torch.from_numpy(rows.astype(np.int64)) for rows in splits)
    if sorted(torch.cat([train, test]).tolist()) != list(range(len(images))):
        raise UserError(
            f"mnist10k-split.npz: found {len(train)} + {len(test)} rows, "
            f"expected each of the {len(images)} rows of mnist10k.npz once; install ong again"
        )
    labels = labels.long()
    return ImageDataset(
        name="mnist-10k",
        train_images=images[train],
        train_labels=labels[train],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        source="ong.streams.data/mnist10k.npz",
    )


@dataset("digits", "scikit-learn's digits, 1,442 to train and 355 to test, of 8×8; for quick trials")
def _digits(data_root: Path | None, download: bool) -> ImageDataset:
    """Divide scikit-learn's digits: in each class every fifth image in file order tests, the others train."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    place_in_class = torch.nn.functional.one_hot(labels).cumsum(0).gather(1, labels[:, None]).squeeze(1) - 1
    test = place_in_class % 5 == 4
    return ImageDataset(
        name="digits",
        train_images=images[~test],
        train_labels=labels[~test],
        test_images=images[test],
        test_labels=labels[test],
        classes=10,
        source="sklearn.datasets.load_digits",
    )


_FASHION = mnist_like(
    "fashion-mnist",
    "FashionMNIST",
    "https://github.com/zalandoresearch/fashion-mnist",
    first_test_labels=(9, 2, 1, 1, 6, 1, 4, 6, 5, 7),
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    apt_package="dataset-fashion-mnist",
)
_MNIST = mnist_like(
    "mnist", "MNIST", "http://yann.lecun.com/exdb/mnist", first_test_labels=(7, 2, 1, 0, 4, 1, 4, 9, 5, 9)
)
_KMNIST = mnist_like("kmnist", "KMNIST", "http://codh.rois.ac.jp/kmnist")


@dataset("mnist", "MNIST, 60,000 + 10,000 digits of 28×28; IDX files in the data root, or downloaded there")
def _mnist(data_root: Path | None, download: bool) -> ImageDataset:
    return load_mnist_like(_MNIST, (_FASHION,), data_root, download)


@dataset("fashion-mnist", "Fashion-MNIST, 60,000 + 10,000 images of 28×28; Debian's dataset-fashion-mnist, or as mnist")
def _fashion_mnist(data_root: Path | None, download: bool) -> ImageDataset:
    return load_mnist_like(_FASHION, (_MNIST,), data_root, download)


@dataset("kmnist", "Kuzushiji-MNIST, 60,000 + 10,000 Japanese characters of 28×28; as mnist")
def _kmnist(data_root: Path | None, download: bool) -> ImageDataset:
    return load_mnist_like(_KMNIST, (_MNIST, _FASHION), data_root, download)


@dataset(
    "emnist",
    "EMNIST, letters and digits of 28×28; split = balanced (47 classes), letters, digits, mnist, byclass, bymerge",
)
def _emnist(data_root: Path | None, download: bool, *, split: str = "balanced") -> ImageDataset:
    return load_emnist(split, data_root, download)


@dataset("cifar100", "CIFAR-100, 50,000 + 10,000 colour images of 32×32; labels = fine (100 classes) or coarse (20)")
def _cifar100(data_root: Path | None, download: bool, *, labels: str = "fine") -> ImageDataset:
    return load_cifar100(labels, data_root, download)


@dataset("image-folder", "image files in path/train/CLASS and path/test/CLASS, path seen from the data root")
def _image_folder(
    data_root: Path | None,
    download: bool,
    *,
    path: str = ".",
    train: str = "train",
    test: str = "test",
    size: int | None = None,
    channels: int | None = None,
) -> ImageDataset:
    return load_image_folder(path, train, test, size, channels, data_root)


def load_dataset(
    name: str | DatasetEntry, data_root: str | Path | None = None, *, download: bool = True, **options: Any
) -> ImageDataset:
    """Load a data set by name.

    Args:
        name: A key of :data:`ong.streams.DATASETS`, or an entry that is not among them.
        data_root: A folder with data sets, which is looked into first. Files may lie in the layout that torchvision
            downloads (``MNIST/raw``, ``cifar-100-python``), in a folder of the data set's name, or in the data root
            itself.
        download: Whether files found nowhere may be downloaded into ``data_root``. Without a ``data_root``
            nothing is ever downloaded.
        options: ``size`` (height and width) and ``channels`` (1 or 3) that images are brought to, and the data set's
            own: ``labels`` of ``cifar100``, ``split`` of ``emnist``, ``path``, ``train`` and ``test`` of
            ``image-folder``.

    Returns:
        The data set. The data are those asked for; nothing else is put in their place.

    Raises:
        UnknownNameError: No data set, or no option of it, has that name.
        UserError: The data are missing (the message names the ways to get them) or corrupt, or were found without
            the ``data_root``, which is no folder.
    """
    if isinstance(name, str) and name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    entry = DATASETS[name] if isinstance(name, str) else name
    for option in options:
        if option not in entry.options:
            raise UnknownNameError(f"option of data set '{entry.name}'", option, entry.options)
    size, channels = checked_size(options.get("size")), checked_channels(options.get("channels"))
    root = None if data_root is None else Path(data_root).expanduser()
    own = inspect.signature(entry.load).parameters
    found = entry.load(root, download, **{key: value for key, value in options.items() if key in own})
    if root is not None and not root.is_dir():
        where = f"'{entry.name}' is in '{found.source}', read without a data root"
        raise UserError(f"data root '{root}' is not a folder; {where}")
    return found.fitted(size, channels)


def checked_size(value: Any) -> int | None:
    """Return a height and width, or None; raise ``UserError`` for anything else."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise UserError(f"size is {value!r}, expected a whole number of at least 1, which is height and width")
    return value


def checked_channels(value: Any) -> int | None:
    """Return a number of channels, 1 or 3, or None; raise ``UserError`` for anything else."""
    if value is not None and (value not in (1, 3) or isinstance(value, bool)):
        raise UserError(f"channels is {value!r}, expected 1 (grey) or 3 (colours)")
    return int(value) if value is not None else None
