"""The data sets of colour images that come in a few files: CIFAR-10, CIFAR-100 and SVHN.

torchvision downloads them. They are read here, as torchvision reads neither CIFAR-100's coarse labels nor files other
than those it has checksums of, and unpickles whatever a file says.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ong.errors import UnknownNameError, UserError
from ong.streams.idx import content_of
from ong.streams.images import ImageDataset
from ong.streams.registry import dataset
from ong.streams.source import Source, located

__all__ = ["load_cifar10", "load_cifar100", "load_svhn"]

_PIXELS = 3 * 32 * 32
_MOST = 1 << 28  # bytes; CIFAR-100's largest file has 155 million, SVHN's 182 million
_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR = "https://www.cs.toronto.edu/~kriz/cifar.html"
_SVHN = "http://ufldl.stanford.edu/housenumbers"
_LABELS = {"fine": 100, "coarse": 20}


class _Array:
    """What a pickle says of a NumPy array: NumPy itself crashes on some that are damaged."""

    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def numbers(self) -> np.ndarray:
        """Return the bytes, in the shape that is stated."""
        _, shape, _, by_column, content = self.state
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_column else "C")


_NEEDED = {  # by the pickles of NumPy arrays, and nothing else is unpickled
    "_reconstruct": _Array,
    "ndarray": _Array,
    "dtype": _Array,
    "encode": lambda text, encoding: text.encode("latin1"),
}


class _Unpickler(pickle._Unpickler):  # in Python: that in C makes room for whatever size is claimed
    """Unpickles plain values and what is said of NumPy arrays."""

    dispatch: ClassVar[dict[int, Any]] = {
        code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]
    }  # so does this one alone in Python

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
        values = _Unpickler(io.BytesIO(content_of(path, _MOST)), encoding="latin1").load()
        if missing := [name for name in ("data", key) if name not in values]:
            raise UserError(f"{path}: has no {missing[0]!r}; found {', '.join(map(str, values))}")
        data, labels = values["data"].numbers(), values[key]
    except UserError:
        raise
    except Exception as error:  # a pickle that is damaged can ask for anything
        raise UserError(f"{path}: not a batch of CIFAR ({error})") from None
    if data.ndim != 2 or data.shape[1] != _PIXELS:
        raise UserError(f"{path}: found data of shape {data.shape}, expected bytes of (N, {_PIXELS})")
    if not isinstance(labels, list) or not all(isinstance(label, int) and 0 <= label < 256 for label in labels):
        raise UserError(f"{path}: found other {key} than a list of whole numbers from 0 on")
    return torch.from_numpy(data.copy()).view(-1, 3, 32, 32), torch.tensor(labels, dtype=torch.int64)


def _load_cifar(source: Source, key: str, classes: int, data_root: Path | None, download: bool) -> ImageDataset:
    folder, files = located(source, data_root, download)
    *train, test = (_read_batch(path, key) for path in files)
    images, labels = (torch.cat(parts) for parts in zip(*train, strict=True))
    return ImageDataset(source.name, images, labels, *test, classes, str(folder))


@dataset("cifar10", "CIFAR-10, 50,000 + 10,000 colour images of 32×32 in 10 classes")
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


@dataset("svhn", "SVHN, 73,257 + 26,032 colour images of house numbers, 32×32, 10 digits")
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
    from scipy.io import loadmat, whosmat

    content: Any = io.BytesIO(content_of(path, _MOST))
    try:
        shapes = {name: shape for name, shape, _ in whosmat(content)}  # headers first: a small file can claim anything
        values = loadmat(content, variable_names=("X", "y")) if _of_svhn(shapes) else {}
    except Exception as error:  # scipy's reader trips over damaged files in many ways
        raise UserError(f"{path}: not a readable MATLAB file ({error})") from None
    images, labels = values.get("X"), values.get("y")
    if images is None or labels is None or images.dtype != np.uint8 or labels.dtype != np.uint8:
        told = ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"
        raise UserError(f"{path}: found {told}; expected X (32, 32, 3, N) and y (N, 1), both of uint8")
    labels = labels.reshape(-1).astype(np.int64) % 10
    return torch.from_numpy(np.ascontiguousarray(images.transpose(3, 2, 0, 1))), torch.from_numpy(labels)


def _of_svhn(shapes: dict[str, tuple[int, ...]]) -> bool:
    images, labels = shapes.get("X", ()), shapes.get("y", ())
    return images[:3] == (32, 32, 3) and len(images) == 4 and labels == (images[3], 1)
