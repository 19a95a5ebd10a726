"""The data sets by name.

``mnist-10k`` and ``digits`` need no file beside the installed packages. ``fashion-mnist`` and ``mnist`` are
read from the four IDX files in ``data_root`` or in Debian's folder, and downloaded into ``data_root`` when
they are absent.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from ong.errors import UnknownNameError, UserError
from ong.streams.idx_folder import IDXSource, load_idx_folder
from ong.streams.images import ImageDataset

__all__ = ["DATASETS", "DatasetEntry", "load_dataset"]


@dataclass(frozen=True)
class DatasetEntry:
    """A line of the registry: what ``ong list`` prints, and how the data are read.

    Attributes:
        description: One line for people.
        load: Takes ``(data_root, download)``, returns the data set.
    """

    description: str
    load: Callable[[Path | None, bool], ImageDataset]


def _read_npz(name: str, *keys: str) -> list[np.ndarray]:
    """Return the arrays ``keys`` of a packaged ``.npz`` file; ``UserError`` when it is damaged."""
    with resources.as_file(resources.files("ong.streams") / "data" / name) as path:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return [archive[key] for key in keys]
        except KeyError as error:
            raise UserError(f"{path}: {error.args[0]}; expected the arrays {', '.join(keys)}") from None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path}: not a readable .npz file ({error}); install ong again") from None


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


_FASHION = IDXSource(
    name="fashion-mnist",
    torchvision_class="FashionMNIST",
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    apt_package="dataset-fashion-mnist",
    first_test_labels=(9, 2, 1, 1, 6, 1, 4, 6, 5, 7),
)
_MNIST = IDXSource(
    name="mnist",
    torchvision_class="MNIST",
    system_folder=None,
    apt_package=None,
    first_test_labels=(7, 2, 1, 0, 4, 1, 4, 9, 5, 9),
)

DATASETS: dict[str, DatasetEntry] = {
    "mnist-10k": DatasetEntry(
        "10,000 MNIST digits of 28×28, 8,000 to train and 2,000 to test; embedded in the package", _mnist_10k
    ),
    "mnist": DatasetEntry(
        "MNIST, 60,000 + 10,000 digits of 28×28; IDX files in the data root, or downloaded there",
        lambda data_root, download: load_idx_folder(_MNIST, (_FASHION,), data_root, download),
    ),
    "fashion-mnist": DatasetEntry(
        "Fashion-MNIST, 60,000 + 10,000 images of 28×28; Debian's dataset-fashion-mnist, or as mnist",
        lambda data_root, download: load_idx_folder(_FASHION, (_MNIST,), data_root, download),
    ),
    "digits": DatasetEntry("scikit-learn's digits, 1,442 to train and 355 to test, of 8×8; for quick trials", _digits),
}
"""The data sets that :func:`load_dataset` knows, by name."""


def load_dataset(name: str, data_root: str | Path | None = None, *, download: bool = True) -> ImageDataset:
    """Load a data set by name.

    Args:
        name: A key of :data:`DATASETS`.
        data_root: A folder with IDX files; ``mnist`` and ``fashion-mnist`` look there first. Either the
            folder of the four files itself, or one that holds them in torchvision's layout (``MNIST/raw``,
            ``FashionMNIST/raw``) or Debian's (``fashion-mnist``).
        download: Whether files found nowhere may be downloaded into ``data_root``. Without a ``data_root``
            nothing is ever downloaded.

    Returns:
        The data set. The data are those asked for; nothing else is put in their place.

    Raises:
        UnknownNameError: No data set has that name.
        UserError: The data are missing (the message names the ways to get them) or corrupt, or were found without
            the ``data_root``, which is no folder.
    """
    if name not in DATASETS:
        raise UnknownNameError("data set", name, DATASETS)
    root = None if data_root is None else Path(data_root).expanduser()
    dataset = DATASETS[name].load(root, download)
    if root is not None and not root.is_dir():
        where = f"'{name}' is in '{dataset.source}', read without a data root"
        raise UserError(f"data root '{root}' is not a folder; {where}")
    return dataset
