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
from pathlib import Path

import torch

from ong.errors import UserError

__all__ = ["content_of", "read_idx"]

_GZIP_MAGIC = b"\x1f\x8b"
_UBYTE = 0x08


def content_of(path: Path) -> bytes:
    """Return the bytes of a file, unpacked when they are gzipped (told by content, not by suffix)."""
    try:
        packed = path.read_bytes()
        return gzip.decompress(packed) if packed.startswith(_GZIP_MAGIC) else packed
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
    content = content_of(path)
    header = 4 + 4 * dimensions
    if len(content) < 4 or content[:3] != bytes([0, 0, _UBYTE]):
        raise UserError(
            f"{path}: bad magic number; found {content[:4].hex() or 'an empty file'}, expected 000008{dimensions:02x}"
        )
    if content[3] != dimensions:
        raise UserError(f"{path}: found {content[3]} dimensions, expected {dimensions}")
    if len(content) < header:
        raise UserError(f"{path}: the header is truncated; found {len(content)} bytes, expected {header}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = math.prod(shape)
    if len(content) - header != expected:
        sizes = "×".join(map(str, shape))
        raise UserError(f"{path}: found {len(content) - header} values, expected {sizes} = {expected}")
    if expected == 0:
        return torch.empty(shape, dtype=torch.uint8)
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=header).reshape(shape)
