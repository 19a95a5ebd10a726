"""What is published, from the command line: made by ``ong sweep``, checked by ``ong verify``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .test_cli import Command, ong

__all__ = ["ong"]

SWEEP = """
[[runs]]
benchmarks = ["permuted-digits"]
strategies = ["naive", "ogd"]
seeds = 2
set = { "training.epochs" = 1, "stream.tasks" = 2 }
"""


@pytest.fixture(autouse=True)
def _level(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the variable back that commands may set."""
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", torch.backends.cpu.get_cpu_capability().lower())


@pytest.mark.slow
def test_a_sweep_is_done_goes_on_and_is_verified(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    code, out, _ = ong("sweep", "sweep.toml", "--dry-run", "--jobs", "1")
    assert code == 0
    told = [re.sub(r"[\d.]+ (s|MB|GB|kB)\b", "N", line) for line in out.splitlines()]
    assert told == [
        "permuted-digits  naive  seeds 0, 1: 2 to do, about N each",
        "permuted-digits  ogd  seeds 0, 1: 2 to do, about N each; keeps N",
        "4 runs, 0 done",
        "about N of computing left",
        "a process takes about N of memory",
    ]
    code, out, err = ong("sweep", "sweep.toml", "--jobs", "1")
    assert code == 0
    assert all(": done (" in line for line in err.splitlines())
    assert "records in" in out
    (tmp_path / "runs/permuted-digits/ogd/seed-1/record.json").unlink()
    assert "3 of 4 runs were finished before" in ong("sweep", "sweep.toml", "--jobs", "1")[1]
    code, out, err = ong("verify", "runs", "--jobs", "1")
    assert code == 0
    assert all(": done (" in line for line in err.splitlines())
    lines = [line.split() for line in out.splitlines()]
    for name in ("naive", "ogd"):
        for seed in "01":
            assert ["permuted-digits", name, seed, "yes", "0", "ok"] in lines


def test_a_record_that_does_not_come_out_is_a_failure(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    ong("sweep", "sweep.toml", "--jobs", "1")
    path = tmp_path / "runs/permuted-digits/naive/seed-1/record.json"
    record = json.loads(path.read_text())
    record["metrics"]["ACC"] += 0.25
    path.write_text(json.dumps(record))
    code, out, _ = ong("verify", str(path), "runs/permuted-digits/ogd", "--jobs", "1")
    assert code == 1
    lines = [line.split() for line in out.splitlines()]
    assert ["permuted-digits", "naive", "1", "no", "0.25", "FAILS"] in lines
    assert ["permuted-digits", "ogd", "1", "yes", "0", "ok"] in lines


def test_wrong_input_is_told_in_a_line(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(SWEEP.replace("seeds", "sedes"))
    code, _, err = ong("sweep", "sweep.toml")
    assert code == 2
    assert err.startswith("ong: unknown key of sweep file 'sweep.toml'")
    assert "did you mean" in err
    assert ong("sweep", "gone.toml")[0] == 2
    (tmp_path / "empty").mkdir()
    assert ong("verify", "empty")[::2] == (2, "ong: 'empty' holds no record.json\n")
    assert ong("verify", "sweep.toml")[0] == 2


@pytest.mark.slow
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="a processor of one level only")
def test_vector_units_are_those_that_the_file_names_and_a_record_was_made_with(tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text('cpu_capability = "default"\n' + SWEEP.replace("seeds = 2", "seeds = 1"))
    environment = {key: value for key, value in os.environ.items() if key != "ATEN_CPU_CAPABILITY"}

    def run(*arguments: str) -> list[list[str]]:
        done = subprocess.run(
            [sys.executable, "-m", "ong", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [line.split() for line in done.stdout.splitlines()]

    run("sweep", "sweep.toml", "--jobs", "1")
    for path in tmp_path.glob("runs/*/*/seed-0/environment.json"):
        assert json.loads(path.read_text())["cpu_capability"] == "DEFAULT"
    assert ["permuted-digits", "ogd", "0", "yes", "0", "ok"] in run("verify", "runs", "--jobs", "1")
