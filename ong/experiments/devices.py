"""The device a run trains on."""

from __future__ import annotations

import torch

from ong.errors import UserError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device that a name means: ``auto`` is CUDA, then Apple's mps, then the CPU.

    Raises:
        UserError: a name that is no device, or a device that is not here.
    """
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise UserError(f"device '{name}' is none of auto, cpu, cuda, cuda:N, mps")
    if (device.index or 0) >= available[device.type]:
        here = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"device '{name}' is not on this machine, which has: {here}")
    return device
