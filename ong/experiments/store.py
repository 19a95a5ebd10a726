"""A run's folder: the finished record, the checkpoint of an unfinished one, the environment."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ong.errors import UserError

__all__ = ["RunFolder", "deciding", "fingerprint"]

SCHEMA = 1
_DESCRIBING = ("summary", "source", "needs")


def deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run's settings without what only describes it."""
    return {
        key: {k: v for k, v in value.items() if k not in _DESCRIBING} if isinstance(value, dict) else value
        for key, value in settings.items()
    }


def fingerprint(settings: dict[str, Any]) -> str:
    """Return a digest of what decides a run."""
    return hashlib.sha256(json.dumps(deciding(settings), sort_keys=True).encode()).hexdigest()


def _finite(value: Any) -> Any:
    """Replace NaN by None, as JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return value


class RunFolder:
    """``OUT/BENCHMARK/STRATEGY/seed-S/``, written so that a kill at any moment loses at most the task in training.

    Attributes:
        path: the folder.
    """

    def __init__(self, out: str | Path, benchmark: str, strategy: str, seed: int) -> None:
        """Name the folder; nothing is written yet."""
        self.path = Path(out) / benchmark / strategy / f"seed-{seed}"

    def prepare(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".write"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise UserError(f"cannot write to the output folder '{self.path}': {error.strerror or error}") from None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the run is done; the system lets go of it when a process is killed.

        Raises:
            UserError: another process is at work.
        """
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another process is at work in '{self.path}'; wait for it, stop it, or use another --out"
            ) from None
        try:
            yield
        finally:
            (self.path / ".lock").unlink(missing_ok=True)
            lock.release()

    def record(self) -> dict[str, Any] | None:
        """Return the finished record, or None.

        Raises:
            UserError: a file that is not a record.
        """
        path = self.path / "record.json"
        if not path.exists():
            return None
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(f"'{path}' is not a record ({error}); remove it or repeat the run with --force") from None
        if not isinstance(values, dict):
            raise UserError(f"'{path}' is not a record; remove it or repeat the run with --force")
        return values

    def checkpoint(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the checkpoint of an unfinished run of the same settings, or None.

        Raises:
            UserError: a checkpoint of other settings, or one that cannot be read.
        """
        path = self.path / "checkpoint.pt"
        if not path.exists():
            return None
        try:
            saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise UserError(f"cannot read '{path}' ({error}); repeat the run with --force") from None
        if not isinstance(saved, dict) or "fingerprint" not in saved:
            raise UserError(f"'{path}' is not a checkpoint; repeat the run with --force")
        if saved["fingerprint"] != fingerprint(settings):
            raise UserError(
                f"'{path}' is of a run with other settings; continue that one, use another --out, or start anew "
                "with --force"
            )
        return saved

    def save_checkpoint(self, state: dict[str, Any], settings: dict[str, Any]) -> None:
        """Write a checkpoint in place of the one before."""
        temporary = self.path / "checkpoint.pt.tmp"
        with temporary.open("wb") as file:
            torch.save(state | {"fingerprint": fingerprint(settings)}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / "checkpoint.pt")

    def save_failure(self, failure: dict[str, Any]) -> None:
        """Note why a run stopped; its checkpoint stays."""
        self._write_json("failure.json", failure)

    def finish(self, record: dict[str, Any], device: str = "cpu") -> None:
        """Write record and environment, then remove the checkpoint."""
        self._write_json("environment.json", _environment() | {"device": device})
        self._write_json("record.json", {"schema": SCHEMA} | record)
        for leftover in ("checkpoint.pt", "failure.json"):
            (self.path / leftover).unlink(missing_ok=True)

    def clear(self) -> None:
        """Forget failure and checkpoint; a finished record stays until another takes its place."""
        for name in ("failure.json", "checkpoint.pt"):
            (self.path / name).unlink(missing_ok=True)

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        temporary = self.path / f"{name}.tmp"
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(_finite(values), file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)


def _environment() -> dict[str, Any]:
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
        "packages": {name: installed(name) for name in ("ong", "torch", "torchvision", "avalanche-lib", "numpy")},
        "commit": _commit(),
    }


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
