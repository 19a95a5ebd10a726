"""Files of data sets changed at random: 500 of each format, and 10,000 with ``-m nightly``."""

from __future__ import annotations

import gzip
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from formats import cifar_batch, images, pickled, write_svhn
from fuzz import EXAMPLES, damaged, tried

from ong.streams import colour, datasets
from ong.streams.idx import read_idx

IDX = bytes([0, 0, 8, 3]) + b"\0\0\0\2" + b"\0\0\0\1" + b"\0\0\0\3" + bytes(6)


@pytest.mark.parametrize("count", EXAMPLES)
def test_idx(count: int, tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte"

    def use(content: bytes) -> None:
        path.write_bytes(content)
        read_idx(path, 3)

    tried(count, damaged([IDX, gzip.compress(IDX)]), use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_npz(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    (tmp_path / "data").mkdir()
    originals = []
    for save in (np.savez, np.savez_compressed):
        made = BytesIO()
        save(made, train=np.arange(5, dtype=np.uint16), test=np.arange(3, dtype=np.uint8))
        originals.append(made.getvalue())

    def use(content: bytes) -> None:
        (tmp_path / "data" / "small.npz").write_bytes(content)
        datasets._read_npz("small.npz", "train", "test")

    tried(count, damaged(originals), use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_batches_of_cifar(count: int, tmp_path: Path) -> None:
    path = tmp_path / "data_batch_1"
    small = pickled({"data": np.zeros((1, 3), np.uint8), "labels": [0]})  # so that most changes meet its structure
    batch = cifar_batch(images(1, 32, 0), labels=[3])

    def use(content: bytes) -> None:
        path.write_bytes(content)
        colour._read_batch(path, "labels")

    tried(count, damaged([small, batch, gzip.compress(batch)]), use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_files_of_svhn(count: int, tmp_path: Path) -> None:
    write_svhn(tmp_path, train=1, test=1)
    path = tmp_path / "train_32x32.mat"
    whole = path.read_bytes()

    def use(content: bytes) -> None:
        path.write_bytes(content)
        colour._read_mat(path)

    tried(count, damaged([whole]), use)
