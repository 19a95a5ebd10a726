"""Small data sets in the true formats of their files, written from the descriptions of these formats."""

from __future__ import annotations

import pickle
import struct
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image
from scipy.io import savemat


class _Python2(pickle._Pickler):  # type: ignore[name-defined, misc]
    """Pickles as Python 2 did, with which CIFAR was made: texts and bytes alike are byte strings."""

    dispatch: ClassVar[dict[Any, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def save_string(self, value: str | bytes) -> None:
        content = value if isinstance(value, bytes) else value.encode("latin1")
        self.write(b"T" + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string


def pickled(values: Any) -> bytes:
    """Return values as a protocol 2 pickle of Python 2, which names NumPy's functions as it did then."""
    file = BytesIO()
    _Python2(file, protocol=2).dump(values)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def images(count: int, size: int, seed: int) -> np.ndarray:
    """Return uint8 (N, 3, size, size)."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3, size, size), dtype=np.uint8)


def cifar_batch(pictures: np.ndarray, **labels: list[int]) -> bytes:
    names = [f"picture_{number}.png" for number in range(len(pictures))]
    batch = {"data": pictures.reshape(len(pictures), -1), "filenames": names, "batch_label": "batch"} | labels
    return pickled(batch)


def write_cifar10(root: Path, each: int = 20) -> dict[str, np.ndarray]:
    """Write five training batches and a test batch of ``each`` images; return the images and labels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    parts = {}
    for number, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        parts[name], labels = images(each, 32, number), [(number + i) % 10 for i in range(each)]
        (folder / name).write_bytes(cifar_batch(parts[name], labels=labels))
        parts[f"{name} labels"] = np.array(labels)
    return parts


def write_cifar100(root: Path, train: int = 200, test: int = 100, classes: int = 100) -> dict[str, np.ndarray]:
    """Write both files; each class has a colour of its own, under noise, so that it can be learnt."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    kinds = images(classes, 1, 7) // 4 * 3
    parts = {}
    for seed, (name, count) in enumerate({"train": train, "test": test}.items()):
        fine = [i % classes for i in range(count)]
        parts[name] = kinds[fine] + images(count, 32, seed) // 4
        (folder / name).write_bytes(cifar_batch(parts[name], fine_labels=fine, coarse_labels=[f % 20 for f in fine]))
    return parts


def write_svhn(root: Path, train: int = 30, test: int = 20) -> dict[str, np.ndarray]:
    """Write both MATLAB files: X (32, 32, 3, N), y (N, 1) from 1 to 10, where 10 is the digit 0."""
    root.mkdir(parents=True, exist_ok=True)
    parts = {}
    for seed, (name, count) in enumerate({"train": train, "test": test}.items()):
        parts[name] = images(count, 32, seed)
        labels = 1 + np.arange(count, dtype=np.uint8)[:, None] % 10
        savemat(root / f"{name}_32x32.mat", {"X": parts[name].transpose(2, 3, 1, 0), "y": labels}, do_compression=True)
    return parts


def write_tiny_imagenet(root: Path, classes: int = 3, each: int = 4, size: int = 64) -> dict[str, np.ndarray]:
    """Write train/CLASS/images/CLASS_i.JPEG, val/images/val_i.JPEG and val/val_annotations.txt, one image grey.

    Every image has one colour, which survives JPEG nearly unchanged.
    """
    folder, names = root / "tiny-imagenet-200", [f"n0{number}443537" for number in range(classes)]
    colours = np.random.default_rng(0).integers(0, 256, (classes, each, 3), dtype=np.uint8)
    colours[0, 1] = 77
    for name, of_class in zip(names, colours, strict=True):
        (folder / "train" / name / "images").mkdir(parents=True)
        for number, colour in enumerate(of_class):
            picture = Image.new("RGB", (size, size), tuple(map(int, colour)))
            picture = picture.convert("L") if len(set(colour.tolist())) == 1 else picture  # as some are
            picture.save(folder / "train" / name / "images" / f"{name}_{number}.JPEG", quality=95)
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t{size - 1}\t{size - 1}\n")
    (folder / "val" / "images").mkdir(parents=True)
    lines = []
    for number in range(2 * classes):
        Image.new("RGB", (size, size), (number, 0, 0)).save(folder / "val" / "images" / f"val_{number}.JPEG")
        lines.append(f"val_{number}.JPEG\t{names[-1 - number % classes]}\t0\t0\t{size - 1}\t{size - 1}\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return {"colours": colours}
