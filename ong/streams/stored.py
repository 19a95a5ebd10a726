"""Images that lie in files, or as bytes in memory, and become inputs only when their rows are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil  # type: ignore[import-untyped]
import torch

__all__ = ["PreparedImages", "StoredImages", "chunks", "decoded", "fits_in_memory", "held"]

_CHUNK = 1024  # images that are decoded at once
_SHARE = 4  # of the memory that is free: other runs go on beside this one


def fits_in_memory(size: int) -> bool:
    """Return whether so many bytes are at most a quarter of the memory that is free."""
    return size <= int(psutil.virtual_memory().available) // _SHARE


class StoredImages:
    """Images that are read each time they are asked for; their rows are chosen without reading them.

    Attributes:
        shape: (N, C, H, W), of uint8.
    """

    dtype = torch.uint8

    def __init__(
        self,
        read: Callable[[int], torch.Tensor],
        rows: torch.Tensor,
        change: Callable[[torch.Tensor], torch.Tensor] | None = None,
        size: torch.Size | None = None,
    ) -> None:
        """Take images by number.

        Args:
            read: from an image's number to uint8 (C, H, W).
            rows: int64 (N,), the numbers of the images.
            change: from images read, (n, C, H, W), to those that are meant, row by row.
            size: (C, H, W) of those; the first one is read to know it where it is not given.
        """
        self._read, self._rows, self._change = read, rows, change
        self.shape = torch.Size((len(rows), *(self._decoded(rows[:1]).shape[1:] if size is None else size)))

    def _decoded(self, rows: torch.Tensor) -> torch.Tensor:
        images = torch.stack([self._read(row) for row in rows.tolist()])
        return images if self._change is None else self._change(images)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: torch.Tensor | slice) -> StoredImages:
        """Return some of the images, unread: a mask or numbers of rows, or a slice."""
        return StoredImages(self._read, self._rows[index], self._change, self.shape[1:])

    def changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> StoredImages:
        """Return the images as ``change`` will make them when they are read."""
        before = self._change
        return StoredImages(self._read, self._rows, change if before is None else lambda x: change(before(x)))

    def tensor(self) -> torch.Tensor:
        """Read them all, uint8 (N, C, H, W)."""
        found = torch.empty(self.shape, dtype=torch.uint8)
        for start in range(0, len(self), _CHUNK):
            found[start : start + _CHUNK] = self._decoded(self._rows[start : start + _CHUNK])
        return found

    def numel(self) -> int:
        """Return how many numbers they hold."""
        return self.shape.numel()


def decoded(images: torch.Tensor | StoredImages) -> torch.Tensor:
    """Return images as a tensor, read if they have to be."""
    return images.tensor() if isinstance(images, StoredImages) else images


def chunks(images: torch.Tensor | StoredImages) -> Iterator[torch.Tensor]:
    """Yield all images, some at a time."""
    if isinstance(images, torch.Tensor):
        yield images
        return
    for start in range(0, len(images), _CHUNK):
        yield decoded(images[start : start + _CHUNK])


class PreparedImages:
    """What a network is given, made of images row by row when it is asked for; it takes the place of a tensor.

    Attributes:
        shape: (N, C, H, W).
        dtype: float32.
        device: the processor.
    """

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, images: torch.Tensor | StoredImages, prepare: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Prepare one image, to know their size.

        Args:
            images: uint8, N of them.
            prepare: from images to float32 (n, C, H, W), each row of its image alone.
        """
        self._images, self._prepare = images, prepare
        self.shape = torch.Size((len(images), *prepare(decoded(images[:1])).shape[1:]))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | torch.Tensor) -> torch.Tensor:
        """Return an input (C, H, W), or several (n, C, H, W)."""
        if isinstance(index, slice | torch.Tensor):
            return self._prepare(decoded(self._images[index]))
        row = range(len(self))[index]
        return self._prepare(decoded(self._images[row : row + 1]))[0]

    def tensor(self) -> torch.Tensor:
        """Return all inputs."""
        return self._prepare(decoded(self._images))


def held(inputs: list[PreparedImages]) -> list[torch.Tensor | PreparedImages]:
    """Return all inputs as tensors where they fit in memory together, as they are otherwise."""
    size = sum(part.shape.numel() * part.dtype.itemsize for part in inputs)
    return [part.tensor() for part in inputs] if fits_in_memory(size) else list(inputs)
