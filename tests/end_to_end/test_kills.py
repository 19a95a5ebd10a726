"""kill -9 at any instant of a command: the same command then ends as if nothing had been, and nothing is left."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from kills import all_gone, command, kill, leftovers, timeless, wait_until

from ong.report.studies import STUDIES, read_studies

QUICK = ("--set", "training.epochs=1", "--set", "stream.tasks=3", "--jobs", "2")
SWEEP = """
[[runs]]
benchmarks = ["permuted-digits"]
strategies = ["naive", "ogd"]
seeds = 2
set = { "training.epochs" = 1, "stream.tasks" = 3 }
"""
RECIPE = """
summary = "s"
source = "s"
[optimizer]
use = "torch.optim:SGD"
lr = 0.02
[search]
"optimizer.lr" = { low = 0.01, high = 0.1, log = true }
"""
COMMANDS = {
    "run": ("run", "permuted-digits", "naive", "ogd", *QUICK),
    "sweep": ("sweep", "sweep.toml", "--jobs", "2"),
    "tune": ("tune", "permuted-digits", "./mine.toml", "--trials", "3", "--write", *QUICK),
    "report": ("report", "runs"),
}
FEW = [
    ("sweep", "worker", 1),
    ("sweep", "group", 2),
    ("tune", "parent", 3),
    ("report", "parent", 4),
]
MANY = [(name, whom, seed) for name in COMMANDS for whom in ("parent", "worker", "group") for seed in range(5)]
MANY = [case for case in MANY if case[0] != "report" or case[1] == "parent"]  # which has no other processes
CASES = [*FEW, *(pytest.param(*case, marks=pytest.mark.nightly) for case in MANY)]


@dataclass(frozen=True)
class Whole:
    """A command that nobody has killed: how long it took, and all it left but clocks."""

    folder: Path
    seconds: float
    result: dict[str, Any]


def prepared(folder: Path, name: str, finished: Path | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "sweep.toml").write_text(SWEEP)
    (folder / "mine.toml").write_text(RECIPE)
    if name == "report" and finished is not None:
        shutil.copytree(finished / "runs", folder / "runs")
    return folder


def done(folder: Path, name: str) -> str:
    """Run a command to its end and return what it prints."""
    process = command(folder, *COMMANDS[name])
    out, err = process.communicate(timeout=900)
    assert process.returncode == 0, err
    return out


def result(folder: Path, name: str, out: str) -> dict[str, Any]:
    """What a command has made: records without clocks, other files as they are, and what a search printed."""
    found: dict[str, Any] = {"out": out} if name == "tune" else {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        place = str(path.relative_to(folder))
        if path.name == "record.json":
            found[place] = timeless(json.loads(path.read_text()))
        elif path.name == STUDIES:  # seconds and dates are in it
            found[place] = [(s.name, [replace(t, seconds=0.0) for t in s.trials]) for s in read_studies(path.parent)]
        elif path.name != "environment.json":
            found[place] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Whole]:
    return {}


def whole(name: str, known: dict[str, Whole], factory: pytest.TempPathFactory) -> Whole:
    if name not in known:
        runs = whole("sweep", known, factory).folder if name == "report" else None
        folder = prepared(factory.mktemp("whole") / name, name, runs)
        begun = time.monotonic()
        out = done(folder, name)
        known[name] = Whole(folder, time.monotonic() - begun, result(folder, name, out))
    return known[name]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "whom", "seed"), CASES)
def test_a_command_that_is_killed_ends_as_if_it_had_not_been(
    name: str,
    whom: str,
    seed: int,
    wholes: dict[str, Whole],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    expected = whole(name, wholes, tmp_path_factory)
    folder = prepared(tmp_path / name, name, wholes["sweep"].folder if name == "report" else None)
    process = command(folder, *COMMANDS[name])
    time.sleep(random.Random(f"{name} {whom} {seed}").uniform(0.1, 1) * expected.seconds)
    members = kill(process, whom)
    _, err = process.communicate(timeout=900)
    if whom == "worker":
        assert process.returncode == 0, err
    wait_until(lambda: all_gone(members), 60)
    again = result(folder, name, done(folder, name))
    assert again == expected.result
    assert leftovers(folder) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "least"),
    [pytest.param(6, (4, 1), id="some"), pytest.param(1, (24, 10), id="all", marks=pytest.mark.nightly)],
)
def test_a_kill_before_any_file_operation_loses_nothing(every: int, least: tuple[int, int], tmp_path: Path) -> None:
    program = Path(__file__).parents[1] / "file_kills.py"
    done_ = subprocess.run(
        [sys.executable, program, tmp_path, str(every)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done_.returncode == 0, done_.stderr
    runs, reports = map(int, done_.stdout.splitlines()[-1].split())
    assert runs >= least[0]
    assert reports >= least[1]
