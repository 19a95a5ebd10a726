import gzip
import tracemalloc
from pathlib import Path

import pytest
import torch

from ong.errors import UserError
from ong.streams.idx import content_of, read_idx

IMAGES = bytes([0, 0, 8, 3]) + b"\0\0\0\2" + b"\0\0\0\1" + b"\0\0\0\3" + bytes([1, 2, 3, 4, 5, 255])
SYSTEM = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_reads_a_file_written_by_hand(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(IMAGES) if packed else IMAGES)
    expected = torch.tensor([[[1, 2, 3]], [[4, 5, 255]]], dtype=torch.uint8)
    assert torch.equal(read_idx(path, 3), expected)


@pytest.mark.skipif(not SYSTEM.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize(("name", "dimensions"), [("images-idx3", 3), ("labels-idx1", 1)])
def test_agrees_with_torchvision_on_fashion_mnist(tmp_path: Path, name: str, dimensions: int) -> None:
    from torchvision.datasets.mnist import read_sn3_pascalvincent_tensor

    path = SYSTEM / f"t10k-{name}-ubyte.gz"
    plain = tmp_path / "plain"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    assert torch.equal(read_idx(path, dimensions), read_sn3_pascalvincent_tensor(str(plain)))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "bad magic number; found an empty file, expected 00000803"),
        (b"PK\3\4 a zip", "bad magic number; found 504b0304, expected 00000803"),
        (b"\0\0\x0d" + IMAGES[3:], "bad magic number; found 00000d03, expected 00000803"),
        (b"\0\0\x08\1" + IMAGES[4:], "found 1 dimensions, expected 3"),
        (IMAGES[:10], "the header is truncated; found 10 bytes, expected 16"),
        (IMAGES[:-1], "found 5 values, expected 2×1×3 = 6"),
        (IMAGES + b"\0", "found more values, expected 2×1×3 = 6"),
        (IMAGES[:4] + b"\xff" * 12, "its header states 4294967295×4294967295×4294967295 = 792"),
        (gzip.compress(IMAGES)[:-9], "the gzip stream is truncated"),
        (gzip.compress(IMAGES)[:10] + b"\x07" * 30, "the gzip stream is corrupt"),
        (gzip.compress(IMAGES)[:-8] + bytes(8), "the gzip stream is corrupt"),
    ],
    ids=[
        "empty", "zip", "float type", "labels for images", "short header",
        "too few values", "too many values", "more than memory", "truncated gzip", "garbled gzip", "wrong checksum",
    ],
)  # fmt: skip
def test_corrupt_file_is_named_with_what_was_found_and_expected(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_idx(path, 3)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def test_a_small_file_that_unpacks_to_a_large_one_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(IMAGES)
        for _ in range(200):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(UserError, match="found more values, expected 2×1×3 = 6"):
        read_idx(path, 3)
    with pytest.raises(UserError, match="holds more than 1000 bytes"):
        content_of(path, 1000)
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(tmp_path, 3)
