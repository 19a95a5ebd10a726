"""Precision: float64 where a device has it, and on the CPU where it has not (mps); autocast off."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["double", "without_autocast"]


def without_autocast(device: torch.device) -> torch.autocast:
    """Return a context in which products are taken in the dtype of their factors, also where a loop runs autocast."""
    return torch.autocast(device.type, enabled=False)


def double(tensor: Tensor) -> Tensor:
    """Return the tensor in float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()
