"""The data sets of colour images that come in a few files: CIFAR-10, CIFAR-100 and SVHN.

torchvision downloads them. They are read here, as torchvision reads neither CIFAR-100's coarse labels nor files other
than those it has checksums of, and unpickles whatever a file says.
"""

from __future__ import annotations

import codecs
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ong.errors import UnknownNameError, UserError
from ong.streams.idx import content_of
from ong.streams.images import ImageDataset
from ong.streams.source import Source, located

__all__ = ["load_cifar10", "load_cifar100", "load_svhn"]

_PIXELS = 3 * 32 * 32
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SVHN = "http://ufldl.stanford.edu/housenumbers"
_LABELS = {"fine": 100, "coarse": 20}
_NEEDED = {  # by the pickles of NumPy arrays, and nothing else is unpickled
    "_reconstruct": np.empty(0).__reduce__()[0],
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "encode": codecs.encode,
}


class _Unpickler(pickle.Unpickler):
    """Unpickles plain values and NumPy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few functions and classes that such pickles name."""
        if name not in _NEEDED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _NEEDED[name]


def _read_batch(path: Path, key: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images, uint8 (N, 3, 32, 32), and labels of one of CIFAR's files.

    Format (Krizhevsky, https://www.cs.toronto.edu/~kriz/cifar.html): a pickled dictionary; ``data`` is uint8 (N, 3072),
    the red, green and blue values of an image one after the other, each row by row; the labels are lists.
    """
    try:
        values = _Unpickler(io.BytesIO(content_of(path)), encoding="latin1").load()
        data, labels = np.asarray(values["data"]), np.asarray(values[key])
    except (pickle.UnpicklingError, EOFError, ValueError, IndexError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a batch of CIFAR ({error})") from None
    except KeyError as error:
        raise UserError(f"{path}: has no {error.args[0]!r}; found {', '.join(map(str, values))}") from None
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _PIXELS:
        raise UserError(f"{path}: found data {data.dtype} of shape {data.shape}, expected uint8 of (N, {_PIXELS})")
    return torch.from_numpy(data.copy()).view(-1, 3, 32, 32), torch.from_numpy(labels.astype(np.int64))


def _load_cifar(source: Source, key: str, classes: int, data_root: Path | None, download: bool) -> ImageDataset:
    folder, files = located(source, data_root, download)
    *train, test = (_read_batch(path, key) for path in files)
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return ImageDataset(source.name, images, labels, *test, classes, str(folder))


def load_cifar10(data_root: Path | None, download: bool) -> ImageDataset:
    """Read CIFAR-10 (Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009).

    Raises:
        UserError: The files are missing or corrupt.
    """

    def fetch(root: str) -> None:
        import torchvision

        torchvision.datasets.CIFAR10(root=root, download=True)

    folders = ("cifar-10-batches-py", "cifar10", "cifar10/cifar-10-batches-py")
    words = "the files data_batch_1 … data_batch_5 and test_batch"
    source = Source("cifar10", (*_BATCHES, "test_batch"), words, folders, _CIFAR, fetch)
    return _load_cifar(source, "labels", 10, data_root, download)


def load_cifar100(labels: str, data_root: Path | None, download: bool) -> ImageDataset:
    """Read CIFAR-100, with its 100 ``"fine"`` labels or its 20 ``"coarse"`` ones.

    Raises:
        UnknownNameError: Other labels.
        UserError: The files are missing or corrupt.
    """
    if labels not in _LABELS:
        raise UnknownNameError("labels of cifar100", labels, _LABELS)

    def fetch(root: str) -> None:
        import torchvision

        torchvision.datasets.CIFAR100(root=root, download=True)

    folders = ("cifar-100-python", "cifar100", "cifar100/cifar-100-python")
    source = Source("cifar100", ("train", "test"), "the files train and test", folders, _CIFAR, fetch)
    return _load_cifar(source, f"{labels}_labels", _LABELS[labels], data_root, download)


def load_svhn(data_root: Path | None, download: bool) -> ImageDataset:
    """Read the cropped digits of SVHN (Netzer et al., 2011); the label of digit 0, 10 in the files, is 0.

    Raises:
        UserError: The files are missing or corrupt.
    """

    def fetch(root: str) -> None:
        import torchvision

        for split in ("train", "test"):
            torchvision.datasets.SVHN(root=root, split=split, download=True)

    files = ("train_32x32.mat", "test_32x32.mat")
    source = Source("svhn", files, f"the files {files[0]} and {files[1]}", ("svhn", "SVHN"), _SVHN, fetch)
    folder, found = located(source, data_root, download)
    train, test = map(_read_mat, found)
    return ImageDataset("svhn", *train, *test, 10, str(folder))


def _read_mat(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images, uint8 (N, 3, 32, 32), and labels of a MATLAB file with X (32, 32, 3, N) and y (N, 1)."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        file: Any = io.BytesIO(content_of(path))
        values = loadmat(file)
        images, labels = values["X"], values["y"].astype(np.int64).reshape(-1) % 10
    except KeyError as error:
        raise UserError(f"{path}: has no {error.args[0]}; expected X and y") from None
    except (MatReadError, ValueError, TypeError, OSError, NotImplementedError) as error:
        raise UserError(f"{path}: not a readable MATLAB file ({error})") from None
    if images.ndim != 4:
        raise UserError(f"{path}: found X of shape {images.shape}, expected (32, 32, 3, N)")
    return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), torch.from_numpy(labels)
