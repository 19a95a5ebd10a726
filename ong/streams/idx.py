"""The IDX files that MNIST and Fashion-MNIST come in.

Format (LeCun, http://yann.lecun.com/exdb/mnist): the bytes 0, 0, type, number of dimensions; then each
dimension as a big-endian uint32; then the values in row-major order. Type 0x08 is uint8, the only one read
here.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import psutil  # type: ignore[import-untyped]
import torch

from ong.errors import UserError

__all__ = ["content_of", "read_idx"]

_GZIP_MAGIC = b"\x1f\x8b"
_UBYTE = 0x08
_PART = 1 << 20  # bytes read at once: room is made for what is there, not for what a header claims


def content_of(path: Path, most: int) -> bytes:
    """Return the bytes of a file, unpacked when they are gzipped.

    Args:
        path: The file.
        most: How many bytes such a file has at most; no more are unpacked.

    Raises:
        UserError: The file cannot be read, or holds more.
    """
    with _opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise UserError(f"{path}: holds more than {most} bytes, which is the most that such a file has")
    return content


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file that is unpacked as it is read when it is gzipped (told by content, not by suffix)."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
    except EOFError:
        raise UserError(f"{path}: the gzip stream is truncated; expected a complete gzip file") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the gzip stream is corrupt ({error}); expected a valid gzip file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def read_idx(path: Path, dimensions: int) -> torch.Tensor:
    """Read an IDX file of unsigned bytes, gzipped or plain.

    Args:
        path: The file.
        dimensions: How many dimensions the file must have: 3 for images (count, height, width), 1 for labels.

    Returns:
        A uint8 tensor with the shape that the file states.

    Raises:
        UserError: The file cannot be read, is no IDX file of bytes, has another number of dimensions, or
            holds more or fewer values than its header states.
    """
    with _opened(path) as file:
        shape = _shape(path, file.read(4 + 4 * dimensions), dimensions)
        expected, free = math.prod(shape), int(psutil.virtual_memory().available)
        sizes = f"{'×'.join(map(str, shape))} = {expected}"
        if expected > free:
            raise UserError(f"{path}: its header states {sizes} values, and {free} bytes of memory are free")
        values = bytearray()
        while part := file.read(min(_PART, expected + 1 - len(values))):  # to the end, where gzip checks its sum
            values += part
    if len(values) != expected:
        found = len(values) if len(values) < expected else "more"
        raise UserError(f"{path}: found {found} values, expected {sizes}")
    if not expected:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(values, dtype=torch.uint8).reshape(shape)


def _shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    if len(header) < 4 or header[:3] != bytes([0, 0, _UBYTE]):
        raise UserError(
            f"{path}: bad magic number; found {header[:4].hex() or 'an empty file'}, expected 000008{dimensions:02x}"
        )
    if header[3] != dimensions:
        raise UserError(f"{path}: found {header[3]} dimensions, expected {dimensions}")
    if len(header) < 4 + 4 * dimensions:
        raise UserError(f"{path}: the header is truncated; found {len(header)} bytes, expected {4 + 4 * dimensions}")
    return struct.unpack(f">{dimensions}I", header[4:])
