"""Worker processes: what they do, that one alone is lost where one dies, and that none outlives its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
from kills import all_gone, family, maps, timeless, wait_until

from ong.experiments.jobs import Job, Outcome, perform
from ong.experiments.plan import plan
from ong.experiments.sweep import outcome_of, sweep
from ong.experiments.workers import Workers

QUICK = {"training.epochs": 1, "stream.tasks": 2}
PLUGIN = """
import os, pathlib, signal
from avalanche.core import SupervisedPlugin

class Killer(SupervisedPlugin):
    def before_training_exp(self, strategy, **kwargs):
        if strategy.clock.train_exp_counter == 1:
            for name in ("always", "once"):
                if pathlib.Path(name).exists():
                    if name == "once":
                        pathlib.Path(name).unlink()
                    os.kill(os.getpid(), signal.SIGKILL)

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass
"""
RECIPE = 'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.1\n'


@pytest.fixture
def killing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """A run whose process dies in its second task as long as a file says so, and one beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "killing.py").write_text(PLUGIN)
    (tmp_path / "dies.toml").write_text(RECIPE + '[[plugins]]\nuse = "killing:Killer"\n')
    return plan("permuted-digits", ["./dies.toml", "naive"], [0], QUICK, out=tmp_path / "runs")


@pytest.mark.slow
def test_a_run_whose_worker_dies_goes_on_in_another_and_ends_with_the_same_bits(
    killing: list[Job], tmp_path: Path
) -> None:
    (whole,) = plan("permuted-digits", ["./dies.toml"], [0], QUICK, out=tmp_path / "whole")
    expected = json.loads(json.dumps(timeless(perform(whole).job.folder.record())))
    (tmp_path / "once").touch()
    outcomes = sweep(killing, workers=2, show=False)
    assert [outcome.failure for outcome in outcomes] == [None, None]
    assert not (tmp_path / "once").exists()  # it did die
    assert timeless(killing[0].folder.record()) == expected


@pytest.mark.slow
def test_a_run_whose_workers_die_fails_with_the_reason_and_costs_the_others_nothing(
    killing: list[Job], tmp_path: Path
) -> None:
    (tmp_path / "always").touch()
    dead, naive = sweep(killing, workers=2, show=False)
    assert naive.record is not None
    assert dead.lost
    assert dead.failure is not None
    assert dead.failure.startswith("permuted-digits / dies / seed 0: its worker process was ended by SIGKILL, twice; ")
    assert "resumes the run where it was" in dead.failure
    assert json.loads((killing[0].folder.path / "failure.json").read_text())["message"] == dead.failure
    (tmp_path / "always").unlink()
    assert sweep(killing, workers=2, show=False)[0].record is not None
    assert sorted(path.name for path in killing[0].folder.path.iterdir()) == ["environment.json", "record.json"]


def test_workers_that_are_let_go_of_in_the_middle_end_and_let_go_of_their_runs(tmp_path: Path) -> None:
    (job,) = plan("permuted-mnist", ["naive"], [0], out=tmp_path)
    others = family(os.getpid())  # such as multiprocessing's, of an earlier test
    with Workers(1) as workers:
        asked: Future[Outcome] = workers.submit(job)
        wait_until((job.folder.path / ".lock").exists)
        members = [process for process in family(os.getpid()) if process not in others]
    assert members
    assert all_gone(members)
    assert not (job.folder.path / ".lock").exists()
    assert outcome_of(asked, job).lost


PARENT = """
import sys
from pathlib import Path
from ong.experiments.plan import plan
from ong.experiments.workers import Workers

jobs = plan("permuted-mnist", ["naive"], [0, 1], out=Path("runs").absolute())
with Workers(2) as workers:
    asked = [workers.submit(job) for job in jobs]
    print("asked", flush=True)
    for future in asked:
        future.result()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("instant", "group"),
    [
        ("at once", False),
        ("while they train", True),
        ("while they import", False),
        pytest.param("while they train", False, marks=pytest.mark.nightly),
    ],
)
def test_no_worker_and_no_semaphore_outlives_a_parent_that_is_killed(instant: str, group: bool, tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, "parent.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "asked\n"
    wait_until(lambda: len(family(parent.pid)) >= 3)
    if instant == "while they import":
        wait_until(lambda: any("torch" in name for worker in family(parent.pid)[1:] for name in maps(worker)))
    elif instant == "while they train":
        wait_until(lambda: len(list(tmp_path.glob("runs/*/*/*/.lock"))) == 2)
    members = family(parent.pid)
    assert len(members) >= 3
    assert not any(
        name.startswith("/dev/shm/") for member in members for name in maps(member)
    )  # outlive a killed group
    if group:
        os.killpg(parent.pid, signal.SIGKILL)
    else:
        parent.kill()
    parent.communicate()
    wait_until(lambda: all_gone(members), 60)
