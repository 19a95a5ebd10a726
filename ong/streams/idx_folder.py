"""Find the four IDX files of an MNIST-like data set, download them when they are absent, and read them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ong.errors import UserError
from ong.streams.idx import read_idx
from ong.streams.images import ImageDataset

__all__ = ["IDXSource", "load_idx_folder"]

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


@dataclass(frozen=True)
class IDXSource:
    """Where a data set of four IDX files may lie.

    Attributes:
        name: The data set's name.
        torchvision_class: The class in ``torchvision.datasets``, also the folder's name in torchvision's
            layout.
        system_folder: Where a system package puts the files.
        apt_package: That package's name.
        first_test_labels: How the test labels begin. MNIST-like sets share their file names, so this tells
            them apart.
    """

    name: str
    torchvision_class: str
    system_folder: Path | None
    apt_package: str | None
    first_test_labels: tuple[int, ...]


def _folders(source: IDXSource, data_root: Path | None) -> list[Path]:
    """Return the folders to look in; the one the user named comes first."""
    own = (
        [] if data_root is None else [data_root / source.torchvision_class / "raw", data_root / source.name, data_root]
    )
    return own + ([] if source.system_folder is None else [source.system_folder])


def _find(folders: Iterable[Path]) -> tuple[Path, list[Path]] | None:
    """Return the first folder that has all four files, plain or gzipped, and the files."""
    for folder in folders:
        choices = [(folder / name, folder / f"{name}.gz") for name in _FILES]
        files = [next((path for path in pair if path.is_file()), None) for pair in choices]
        found = [path for path in files if path is not None]
        if len(found) == len(_FILES):
            return folder, found
    return None


def _missing(source: IDXSource, folders: list[Path], reason: str) -> UserError:
    looked = ", ".join(map(str, folders)) or "no folder, as no data root was given"
    package = f"install the system package {source.apt_package} (apt), or " if source.apt_package else ""
    return UserError(
        f"data set '{source.name}' not found (looked in: {looked}{reason}); three ways to get it: "
        f"{package}name a folder that holds its four IDX files with --data-root; "
        f"name an empty --data-root with network access, and torchvision downloads into it; "
        f"or use the embedded data instead: --dataset mnist-10k"
    )


def _download(source: IDXSource, data_root: Path) -> str:
    """Let torchvision download into ``data_root``; return why it failed, or an empty string."""
    import torchvision

    try:
        getattr(torchvision.datasets, source.torchvision_class)(root=str(data_root), download=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:  # URLError is an OSError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"; the download failed: {lines[-1]}"  # torchvision lists the mirrors first, the cause last
    return ""


def load_idx_folder(
    source: IDXSource, others: Iterable[IDXSource], data_root: Path | None, download: bool
) -> ImageDataset:
    """Read the data set from the first place that has it, downloading it when none has.

    Args:
        source: The data set wanted.
        others: Data sets with the same file names, which must not be taken for it.
        data_root: The user's folder.
        download: Whether to download into ``data_root`` when the files are nowhere.

    Raises:
        UserError: The files are missing, corrupt, or another data set's.
    """
    folders = _folders(source, data_root)
    found = _find(folders)
    reason = ""
    if found is None and data_root is not None and download:
        reason = _download(source, data_root)
        found = _find(folders)
    if found is None:
        raise _missing(source, folders, reason)
    folder, files = found
    images, labels, test_images, test_labels = (
        read_idx(path, dimensions) for path, dimensions in zip(files, (3, 1, 3, 1), strict=True)
    )
    dataset = ImageDataset(
        name=source.name,
        train_images=images,
        train_labels=labels.long(),
        test_images=test_images,
        test_labels=test_labels.long(),
        classes=10,
        source=str(folder),
    )
    first = tuple(test_labels[:10].tolist())
    for other in others:
        if first == other.first_test_labels:
            raise UserError(f"{folder}: these are the files of '{other.name}', expected those of '{source.name}'")
    if first != source.first_test_labels:
        raise UserError(
            f"{folder}: these are not the files of '{source.name}', whose test labels begin with "
            f"{source.first_test_labels}; these begin with {first}"
        )
    return dataset
