"""A run and a report, killed -9 before each of their file operations in turn: done again, they end as if not killed.

A program of its own, as only a process that has not trained yet can be forked: ``file_kills.py FOLDER EVERY`` kills at
every so many-th operation, and prints how many kills there were of a run and of a report.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kills import leftovers, timeless

import ong.experiments.continual  # noqa: F401  # now, not in each fork
from ong.experiments.jobs import perform
from ong.experiments.plan import plan
from ong.report.write import write_report

OPERATIONS = ("open", "os.mkdir", "os.remove", "os.rename")  # Python's audit events
QUICK = {"training.epochs": 1, "stream.tasks": 3}


def in_a_fork(work: Callable[[], object], folder: Path, last: int | None = None) -> bool:
    """Do work in a fork, up to its file operation of a number in a folder; returns whether it came to that."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or status == 0
        return os.WIFSIGNALED(status)
    left = -1 if last is None else last

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event in OPERATIONS and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(folder)):
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    sys.addaudithook(watch)
    try:
        work()
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def run(folder: Path) -> None:
    """Train ``ogd`` on three tasks."""
    (job,) = plan("permuted-digits", ["ogd"], [0], QUICK, out=folder)
    assert perform(job).failure is None


def report(folder: Path) -> None:
    """Write tables of the runs in a folder."""
    write_report(folder, ["md", "csv", "tex"])


def contents(folder: Path) -> dict[str, Any]:
    """All files of a folder, records without clocks."""
    return {
        str(path.relative_to(folder)): timeless(json.loads(path.read_text()))
        if path.name == "record.json"
        else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "environment.json"
    }


def kills(work: Callable[[Path], None], begun: Path, expected: dict[str, Any], every: int) -> int:
    """Kill work that finds a folder as it begun, do it again, and compare what it makes; returns how often."""
    count = 0
    while True:
        folder = begun.with_name(f"{begun.name}-{count}")
        shutil.copytree(begun, folder)
        at = partial(work, folder)
        if not in_a_fork(at, folder, count * every):
            return count
        in_a_fork(at, folder)
        assert contents(folder) == expected, f"killed at operation {count * every}"
        assert leftovers(folder) == []
        count += 1


def main(root: Path, every: int) -> None:
    """Kill a run, then a report of what it made."""
    empty, runs, whole = root / "run", root / "report", root / "whole"
    empty.mkdir()
    in_a_fork(partial(run, runs), runs)
    shutil.copytree(runs, whole)
    in_a_fork(partial(report, whole), whole)
    print(kills(run, empty, contents(runs), every), kills(report, runs, contents(whole), every))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
