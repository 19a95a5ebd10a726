"""Whether what a stream's tasks will leave behind fits into memory: worked out before training starts."""

from __future__ import annotations

import math
from typing import Any

import psutil  # type: ignore[import-untyped]  # Avalanche depends on it
import torch

from ong.plugins.boundaries import task_of

__all__ = ["available_bytes", "most_directions", "needed_bytes", "readable", "stream_length"]

_GRAM = 3 * 8  # bytes an entry: the Gram, its eigenvectors and its inverse, in float64


def available_bytes(device: torch.device) -> int:
    """Return the memory that is free for new allocations on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def stream_length(experience: Any) -> int:
    """Return the number of tasks in an experience's stream, 1 where the stream does not tell."""
    stream = task_of(experience)._origin_stream
    return len(stream) if hasattr(stream, "__len__") else 1


def needed_bytes(worked_with: int, directions: int) -> int:
    """Return the most memory that directions take while they are used: all copies of them, and what their Gram does."""
    return worked_with + _GRAM * directions**2


def most_directions(each: int, available: int) -> int:
    """Return how many directions of ``each`` bytes fit: the root of ``needed_bytes(each · M, M) = available``."""
    return int((math.sqrt(each**2 + 4 * _GRAM * available) - each) / (2 * _GRAM))


def readable(count: float) -> str:
    """Return bytes with a unit and three significant digits."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.4g} TB"
