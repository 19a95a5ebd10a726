"""Precision: float64 where a device has it, and on the CPU where it has not (mps); autocast off."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

__all__ = ["double", "holds", "without_autocast"]


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which products are taken in the dtype of their factors, also where a loop runs autocast."""
    return torch.autocast(device.type, enabled=False) if torch.is_autocast_enabled(device.type) else nullcontext()


def double(tensor: Tensor) -> Tensor:
    """Return the tensor in float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()


def holds(condition: Tensor) -> bool:
    """Return whether a condition holds; of a tensor without values (device ``meta``) it does."""
    return condition.is_meta or bool(condition)
