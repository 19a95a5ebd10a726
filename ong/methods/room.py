"""Whether what tasks will leave fits into memory: worked out before training starts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]
import torch

from ong.curvature import Block
from ong.projection import Rows

__all__ = [
    "available_bytes",
    "bytes_of",
    "ekfac_bytes",
    "fisher_bytes",
    "most_directions",
    "needed_bytes",
    "readable",
]

_GRAM = 3 * 8  # bytes an entry: the Gram, its eigenvectors and its inverse, in float64


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free for new allocations on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def needed_bytes(worked_with: int, directions: int) -> int:
    """Return the most memory that directions take while they are used: all copies of them, and what their Gram does."""
    return worked_with + _GRAM * directions**2


def most_directions(each: int, available: int) -> int:
    """Return how many directions of ``each`` bytes fit: the root of ``needed_bytes(each · M, M) = available``."""
    return int((math.sqrt(each**2 + 4 * _GRAM * max(available, 0)) - each) / (2 * _GRAM))


def fisher_bytes(blocks: Mapping[str, Block]) -> int:
    """Return the most memory an EKFAC takes while it is measured: all covariances, and the largest eigenproblem."""
    sizes = [8 * sum(n**2 for n in block.shape) for block in blocks.values() if not block.is_diagonal]
    diagonal = [8 * block.shape[0] * block.shape[1] for block in blocks.values() if block.is_diagonal]
    return sum(sizes) + sum(diagonal) + 4 * max(sizes, default=0)


def bytes_of(sample: Mapping[str, Rows], count: int) -> int:
    """Return the bytes that ``count`` directions take, from a few of them."""
    return sum(count * rows.bytes // len(rows) for rows in sample.values())


def ekfac_bytes(blocks: Mapping[str, Block], rank: int | None) -> int:
    """Return the bytes of one EKFAC that is kept (:class:`ong.curvature.EigenBlock`)."""
    total = 0
    for block in blocks.values():
        rows, columns = block.shape
        thin = columns if rank is None else min(rank, columns)
        eigen = columns * thin + thin + 1 + rows * rows + rows + rows * thin + rows
        numbers = rows * columns if block.is_diagonal else eigen
        total += numbers * block.values().element_size()
    return total


def readable(count: float) -> str:
    """Return bytes with a unit and three significant digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
