"""The device a run trains on."""

from __future__ import annotations

import torch

from ong.errors import UserError

__all__ = ["check_device_name", "resolve_device"]


_KINDS = ("cuda", "mps", "cpu")


def check_device_name(name: str) -> None:
    """Raise ``UserError`` for a name that is no device on any machine."""
    try:
        if name == "auto" or torch.device(name).type in _KINDS:
            return
    except RuntimeError:
        pass
    raise UserError(f"device '{name}' is none of auto, cpu, cuda, cuda:N, mps")


def resolve_device(name: str) -> torch.device:
    """Return the device that a name means: ``auto`` is CUDA, then Apple's mps, then the CPU.

    Raises:
        UserError: a name that is no device, or a device that is not here.
    """
    check_device_name(name)
    available = {
        "cpu": 1,
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "mps": int(torch.backends.mps.is_available()),
    }
    if name == "auto":
        return torch.device(next(kind for kind in _KINDS if available[kind]))
    device = torch.device(name)
    if (device.index or 0) >= available[device.type]:
        here = ", ".join(kind for kind, count in available.items() if count)
        raise UserError(f"device '{name}' is not on this machine, which has: {here}")
    return device
