"""A run that is killed between two tasks or epochs, processes that are killed at any instant, and what must be left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import psutil

from ong.experiments.progress import Silent


class Killed(BaseException):
    """Stands for a kill."""


class KillAfter(Silent):
    """Kills when the unit (task, epoch, evaluation) after ``units`` others starts."""

    def __init__(self, units: int) -> None:
        self.left = units

    def start_task(self, steps: int) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


def timeless(record: dict[str, Any] | None) -> dict[str, Any]:
    """A record without what may differ: its clocks, and the version that only the written one names."""
    assert record is not None
    return {key: value for key, value in record.items() if key not in ("timing", "schema")}


def command(folder: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start ``ong`` in a folder, as the leader of a group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "ong", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def family(parent: int) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        process = psutil.Process(parent)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def wait_until(holds: Callable[[], bool], seconds: float = 240) -> None:
    """Wait for something to come true."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it has not come true"
        time.sleep(0.02)


def all_gone(processes: Iterable[psutil.Process]) -> bool:
    """Whether processes have ended; one that waits for its parent to look has."""
    return not any(_lives(process) for process in processes)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill(process: subprocess.Popen[str], whom: str) -> list[psutil.Process]:
    """Kill -9 the parent, a worker (where there is one) or the whole group; returns all there were."""
    members = family(process.pid)
    workers = members[1:]
    if whom == "group":
        os.killpg(process.pid, signal.SIGKILL)
    elif whom == "worker" and workers:
        workers[-1].kill()
    elif whom == "parent":
        os.kill(process.pid, signal.SIGKILL)
    return members


def leftovers(folder: Path) -> list[str]:
    """Files that nobody wants once all runs are done."""
    names = ("checkpoint.pt", "failure.json", ".lock")
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.name in names or p.suffix == ".tmp")


def maps(process: psutil.Process) -> list[str]:
    """The files that a process has in its memory: libraries, and semaphores that it shares."""
    try:
        return [found.path for found in process.memory_maps()]
    except psutil.Error:
        return []
