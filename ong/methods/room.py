"""Whether what tasks will leave fits into memory: worked out before training starts."""

from __future__ import annotations

import math
from collections.abc import Mapping

import psutil  # type: ignore[import-untyped]
import torch

from ong.curvature import Block

__all__ = ["available_bytes", "fisher_bytes", "most_directions", "needed_bytes", "readable"]

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
    """Return the most memory that an EKFAC takes while it is measured: all covariances, and the largest eigenproblem."""
    sizes = [8 * sum(n**2 for n in block.shape) for block in blocks.values() if not block.is_diagonal]
    diagonal = [8 * block.shape[0] * block.shape[1] for block in blocks.values() if block.is_diagonal]
    return sum(sizes) + sum(diagonal) + 4 * max(sizes, default=0)


def readable(count: float) -> str:
    """Return bytes with a unit and three significant digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
