"""The data sets of four IDX files: MNIST, Fashion-MNIST, KMNIST and the splits of EMNIST."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ong.errors import UnknownNameError, UserError
from ong.streams.idx import read_idx
from ong.streams.images import ImageDataset
from ong.streams.source import Source, located

__all__ = ["EMNIST_CLASSES", "MNISTLike", "load_emnist", "load_mnist_like", "mnist_like"]

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
EMNIST_CLASSES = {"byclass": 62, "bymerge": 47, "balanced": 47, "letters": 26, "digits": 10, "mnist": 10}
"""The splits of EMNIST, and how many classes each has."""


@dataclass(frozen=True)
class MNISTLike:
    """A data set whose files are named like MNIST's.

    Attributes:
        source: Where it lies.
        first_test_labels: How the test labels begin, which tells such sets apart; None where that is not known.
    """

    source: Source
    first_test_labels: tuple[int, ...] | None = None


def mnist_like(
    name: str,
    torchvision_class: str,
    address: str,
    *,
    first_test_labels: tuple[int, ...] | None = None,
    system_folder: Path | None = None,
    apt_package: str | None = None,
) -> MNISTLike:
    """Return a data set in torchvision's layout (``CLASS/raw``), in Debian's, or in a data root itself."""

    def download(root: str) -> None:
        import torchvision

        getattr(torchvision.datasets, torchvision_class)(root=root, download=True)

    folders = (f"{torchvision_class}/raw", name)
    words = "its four IDX files"
    source = Source(name, _FILES, words, folders, address, download, system_folder, apt_package, embedded="mnist-10k")
    return MNISTLike(source, first_test_labels)


def load_mnist_like(
    wanted: MNISTLike, others: Iterable[MNISTLike], data_root: Path | None, download: bool
) -> ImageDataset:
    """Read a data set from the first place that has it, downloading it when none has.

    Args:
        wanted: The data set wanted.
        others: Data sets with the same file names, which must not be taken for it.
        data_root: The user's folder.
        download: Whether to download into ``data_root`` when the files are nowhere.

    Raises:
        UserError: The files are missing, corrupt, or another data set's.
    """
    name = wanted.source.name
    folder, files = located(wanted.source, data_root, download)
    dataset = _read(name, folder, files, classes=10)
    first = tuple(dataset.test_labels[:10].tolist())
    for other in others:
        if first == other.first_test_labels:
            raise UserError(f"{folder}: these are the files of '{other.source.name}', expected those of '{name}'")
    if wanted.first_test_labels not in (None, first):
        raise UserError(
            f"{folder}: these are not the files of '{name}', whose test labels begin with "
            f"{wanted.first_test_labels}; these begin with {first}"
        )
    return dataset


def load_emnist(split: str, data_root: Path | None, download: bool) -> ImageDataset:
    """Read a split of EMNIST, its images turned upright; labels of ``letters`` from 0 on.

    Source: Cohen et al., "EMNIST: an extension of MNIST to handwritten letters", 2017. The files hold each image
    transposed, and the letters' labels as 1 … 26.

    Raises:
        UnknownNameError: No split has that name.
        UserError: The files are missing or corrupt.
    """
    if split not in EMNIST_CLASSES:
        raise UnknownNameError("split of emnist", split, EMNIST_CLASSES)

    def fetch(root: str) -> None:
        import torchvision

        torchvision.datasets.EMNIST(root=root, split=split, download=True)

    files = tuple(
        f"emnist-{split}-{part}-{kind}"
        for part in ("train", "test")
        for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
    )
    address = "https://www.nist.gov/itl/products-and-services/emnist-dataset"
    words = f"the four IDX files emnist-{split}-…"
    source = Source("emnist", files, words, ("EMNIST/raw", "emnist", "EMNIST/raw/gzip"), address, fetch)
    folder, found = located(source, data_root, download)
    return _read("emnist", folder, found, classes=EMNIST_CLASSES[split], transposed=True, first=split == "letters")


def _read(
    name: str, folder: Path, files: list[Path], *, classes: int, transposed: bool = False, first: bool = False
) -> ImageDataset:
    """Return the data set that four IDX files hold; ``first`` is the label that the files give the first class."""
    images, labels, test_images, test_labels = (
        read_idx(path, dimensions) for path, dimensions in zip(files, (3, 1, 3, 1), strict=True)
    )
    if transposed:
        images, test_images = images.mT.contiguous(), test_images.mT.contiguous()
    return ImageDataset(
        name=name,
        train_images=images,
        train_labels=labels.long() - int(first),
        test_images=test_images,
        test_labels=test_labels.long() - int(first),
        classes=classes,
        source=str(folder),
    )
