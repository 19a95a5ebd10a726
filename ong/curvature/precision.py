"""Float64 where a device has it, and on the CPU where it has not (mps)."""

from __future__ import annotations

from torch import Tensor

__all__ = ["double"]


def double(tensor: Tensor) -> Tensor:
    """Return the tensor in float64."""
    return tensor.cpu().double() if tensor.device.type == "mps" else tensor.double()
