"""Where a run was done: versions, processor, and the commit of this package."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

__all__ = ["environment", "peak_bytes"]


def environment() -> dict[str, Any]:
    """Return what of this machine and its software can change a run's last digits, or its seconds."""

    def installed(package: str) -> str | None:
        try:
            return version(package)
        except PackageNotFoundError:
            return None

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "peak_bytes": peak_bytes(),
        "packages": {name: installed(name) for name in ("ong", "torch", "torchvision", "avalanche-lib", "numpy")},
        "commit": _commit(),
    }


def peak_bytes() -> int | None:
    """Return the most memory that this process has had, a GPU's not counted; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _commit() -> str | None:
    """Return the commit of this package's own repository; None where it has none, or there is no git."""
    here = Path(__file__).resolve().parents[2]
    command = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False).stdout
    except OSError:
        return None
    top, _, commit = found.strip().partition("\n")
    return commit if top and Path(top).resolve() == here else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
