"""A run's folder: the finished record, the checkpoint of an unfinished one, the environment."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ong.errors import UserError, WorkStoppedError
from ong.experiments.environment import environment
from ong.files import cannot, is_there, read_text, remove_leftovers, replacing, write_text
from ong.report.migrations import SCHEMA, migrated

__all__ = ["EVENTS", "LOG", "LOGGED", "RunFolder", "deciding", "fingerprint"]

_DESCRIBING = ("summary", "source", "needs")
_RECORD, _ENVIRONMENT = "record.json", "environment.json"
_CHECKPOINT, _FAILURE, _LOCK = "checkpoint.pt", "failure.json", ".lock"
LOGGED = "logged.jsonl"  # what an unfinished run has measured, for loggers
LOG, EVENTS = "log.csv", "tensorboard"  # what the loggers csv and tensorboard write
_ANEW = "repeat the run with --force"


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
            UserError: it cannot be written to, or something else lies where its files belong.
        """
        probe = self.path / f".write.{os.getpid()}.tmp"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink(missing_ok=True)  # a worker elsewhere may tidy up
        except (OSError, ValueError) as error:
            raise cannot("write to the output folder", self.path, error) from None
        for name in (_RECORD, _CHECKPOINT, _FAILURE, _ENVIRONMENT, _LOCK, LOGGED):
            is_there(self.path / name)

    def remove_if_empty(self) -> None:
        """Remove the folder, and those around it in the output folder, that hold nothing: no run has begun there."""
        with suppress(OSError):
            for folder in (self.path, self.path.parent, self.path.parent.parent):
                folder.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes out while the run is done; the system lets go of it when a process is killed.

        Raises:
            UserError: another process is at work.
        """
        lock = FileLock(self.path / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"another process is at work in '{self.path}'; wait for it, stop it, or use another --out"
            ) from None
        except OSError as error:
            raise cannot("lock", self.path, error) from None
        try:
            remove_leftovers(self.path)
            yield
        finally:
            (self.path / _LOCK).unlink(missing_ok=True)
            lock.release()

    def record(self) -> dict[str, Any] | None:
        """Return the finished record in today's form, or None.

        Raises:
            UserError: a file that is not a record, or is of a version that this ong does not know.
        """
        path = self.path / _RECORD
        if not is_there(path):
            return None
        try:
            values: dict[str, Any] = json.loads(read_text(path, "record"))
        except (ValueError, RecursionError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"'{path}' is not a record ({error}); remove it or {_ANEW}") from None
        if not isinstance(values, dict):
            raise UserError(f"'{path}' is not a record; remove it or {_ANEW}")
        return migrated(values, path)

    def checkpoint(self, settings: dict[str, Any]) -> dict[str, Any] | None:
        """Return the checkpoint of an unfinished run of the same settings, or None.

        Raises:
            UserError: a checkpoint of other settings, one that has changed since it was written, or one that holds
                numbers that are not finite.
        """
        path = self.path / _CHECKPOINT
        if not is_there(path):
            return None
        try:
            whole = _is_as_written(path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickles, which are refused
                saved: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu") if whole else {}
        except OSError as error:
            raise cannot("read", path, error) from None
        except Exception:  # torch advises to trust the file
            whole = False
        if not whole:
            raise UserError(f"'{path}' is not a checkpoint, or has changed since it was written; {_ANEW}")
        if not isinstance(saved, dict) or not isinstance(saved.get("fingerprint"), str):
            raise UserError(f"'{path}' is not a checkpoint; {_ANEW}")
        if saved["fingerprint"] != fingerprint(settings):
            raise UserError(
                f"'{path}' is of a run with other settings; continue that one, use another --out, or start anew "
                "with --force"
            )
        wrong = next(_not_finite({key: part for key, part in saved.items() if key != "plugins"}), None)
        if wrong is not None:
            raise UserError(f"'{path}' holds numbers that are not finite in '{wrong}'; {_ANEW}")
        return saved

    def restore(self, settings: dict[str, Any], into: Callable[[dict[str, Any]], None]) -> None:
        """Give a run the checkpoint it has left, where there is one.

        Args:
            settings: the run's.
            into: takes what was saved.

        Raises:
            UserError: a checkpoint that cannot be taken, or does not fit, such as weights of another shape.
        """
        saved = self.checkpoint(settings)
        if saved is None:
            return
        try:
            into(saved)
        except Exception as error:
            told = " ".join(str(error).split())[:300]
            raise UserError(
                f"'{self.path / _CHECKPOINT}' does not fit this run ({type(error).__name__}: {told}); {_ANEW}"
            ) from error

    def save_checkpoint(self, state: dict[str, Any], settings: dict[str, Any]) -> None:
        """Write a checkpoint in place of the one before; its last 32 bytes are the SHA-256 of all others."""
        with replacing(self.path / _CHECKPOINT) as file:
            digested = _Digested(file)
            torch.save(state | {"fingerprint": fingerprint(settings)}, cast(IO[bytes], digested))
            file.write(digested.digest())

    def save_failure(self, failure: dict[str, Any]) -> None:
        """Note why a run stopped; its checkpoint stays. On a disk that is full there is no note."""
        with suppress(UserError, WorkStoppedError):
            self._write_json(_FAILURE, failure)

    def finish(self, record: dict[str, Any], device: str = "cpu") -> None:
        """Write record and environment, then remove the checkpoint."""
        self._write_json(_ENVIRONMENT, environment() | {"device": device})
        self._write_json(_RECORD, {"schema": SCHEMA} | record)
        self.clear()

    def tidy(self) -> None:
        """Remove what a process that was killed has left beside a finished record, unless one is at work here."""
        with suppress(UserError, OSError):
            if set(os.listdir(self.path)) - {_RECORD, _ENVIRONMENT}:
                with self.locked():
                    self.clear()

    def clear(self, *, logs: bool = False) -> None:
        """Forget all of an unfinished run; a finished record stays until another takes its place.

        Args:
            logs: what loggers have written here too.
        """
        for name in (_FAILURE, _CHECKPOINT, LOGGED, *([LOG] if logs else [])):
            (self.path / name).unlink(missing_ok=True)
        if logs:
            shutil.rmtree(self.path / EVENTS, ignore_errors=True)

    def _write_json(self, name: str, values: dict[str, Any]) -> None:
        write_text(self.path / name, json.dumps(_finite(values), indent=1) + "\n")


class _Digested:
    """A file that is written to, and the digest of what was."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._sha = file, hashlib.sha256()
        self.digest = self._sha.digest

    def write(self, content: bytes) -> int:
        self._sha.update(content)
        return self._file.write(content)

    def flush(self) -> None:
        self._file.flush()


def _is_as_written(path: Path) -> bool:
    """Return whether the last bytes of a file are the digest of all others."""
    size = hashlib.sha256().digest_size
    left, sha = path.stat().st_size - size, hashlib.sha256()
    with path.open("rb") as file:
        while left > 0 and (part := file.read(min(left, 1 << 20))):
            sha.update(part)
            left -= len(part)
        return file.read() == sha.digest()


def _not_finite(state: Any, place: str = "") -> Iterator[str]:
    """Yield the dotted keys of tensors that hold NaN or infinity."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and not bool(state.isfinite().all()):
            yield place
    elif isinstance(state, dict | list | tuple):
        for key, part in state.items() if isinstance(state, dict) else enumerate(state):
            yield from _not_finite(part, f"{place}.{key}" if place else str(key))
