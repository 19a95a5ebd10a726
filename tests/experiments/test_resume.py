"""A run that was killed goes on at the last finished task, and ends with the same bits."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from avalanche.models import IncrementalClassifier
from torch import Tensor, nn

from ong.errors import UserError
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Silent
from ong.experiments.recipes import list_recipes, load_strategy
from ong.experiments.sweep import sweep

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SETTINGS = {"training.epochs": 1, "optimizer.lr": 0.02}


class Killed(BaseException):
    """Stands for a kill: nothing in a run may catch it."""


class KillAfter(Silent):
    """Kills a run some steps into the task after ``tasks`` finished ones."""

    def __init__(self, tasks: int) -> None:
        self.left, self.steps = tasks, 5

    def end_task(self) -> None:
        self.left -= 1

    def step(self) -> None:
        if self.left <= 0:
            self.steps -= 1
            if not self.steps:
                raise Killed


NOT_TO_THE_BIT = ("cope", "feature-replay", "rar")
"""Their runs say that they cannot be resumed; test_strategies.py."""
TO_THE_BIT = [
    name
    for name in list_recipes("strategies")
    if name not in NOT_TO_THE_BIT and "all tasks at once" not in load_strategy(name).needs
]
OWN: dict[str, dict[str, Any]] = {
    "generative-replay": {"training.batch_size": 128},
    "gss": {"plugins.0.mem_size": 100},  # filling it takes a gradient an example
    "packnet": {"training.epochs": 2},
}


def job(strategy: str, out: Path, **changes: Any) -> Job:
    """A run of three tasks at least, on a stream of digits that the strategy learns."""
    scenario = load_strategy(strategy).model_dump()["scenarios"][0]
    benchmark, data, settings = "permuted-digits", None, SETTINGS | OWN.get(strategy, {})
    if scenario != "domain":
        benchmark, data = "split-mnist", "digits"
        settings |= {"stream.scenario": scenario, "stream.tasks": 3, "model.hidden": [32], "training.batch_size": 16}
    elif strategy == "generative-replay":  # 28×28 images
        benchmark, settings = "split-mnist-class", settings | {"stream.tasks": 3}
    (found,) = plan(benchmark, [strategy], [0], settings | changes, data, out=out)
    return found


def timeless(record: dict[str, Any] | None) -> dict[str, Any]:
    assert record is not None
    return {key: value for key, value in record.items() if key != "timing"}


def test_all_data_that_cumulative_keeps_count_as_its_memory(tmp_path: Path) -> None:
    record = perform(job("cumulative", tmp_path, **{"stream.tasks": 3})).record
    assert record is not None
    assert record["diagnostics"]["memory_bytes"] == [task * 1442 * (64 + 1 + 1) for task in (1, 2, 3)]  # labels


@pytest.mark.parametrize("strategy", TO_THE_BIT)
def test_a_resumed_run_is_identical_to_an_uninterrupted_one(strategy: str, tmp_path: Path) -> None:
    whole = perform(job(strategy, tmp_path / "whole"))
    killed = job(strategy, tmp_path / "killed")
    for tasks in (1, 1):  # killed in the second task, then in the third
        with pytest.raises(Killed):
            perform(killed, KillAfter(tasks))
        assert (killed.folder.path / "checkpoint.pt").exists()
        assert killed.folder.record() is None
    resumed = perform(killed)
    assert not (killed.folder.path / "checkpoint.pt").exists()
    assert timeless(resumed.record) == timeless(whole.record)
    assert timeless(killed.folder.record()) == timeless(whole.job.folder.record())


class Incremental(nn.Module):
    """A head that grows with the classes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 20), nn.ReLU())
        self.head = IncrementalClassifier(20)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


SEVERAL_HEADS = (
    "naive",
    "ogd",
    "ong",
    "ong-prior",
    "ncl",
    "gpm",
    "ewc-fisher",
    "ewc",
    "si",
    "lwf",
    "mas",
    "rwalk",
    "gdumb",
    "er-ace",
)


@pytest.mark.parametrize("scenario", ["task", "class"])
@pytest.mark.parametrize("strategy", SEVERAL_HEADS)
def test_heads_that_grow_or_one_a_task_are_resumed_to_the_bit(strategy: str, scenario: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = SETTINGS | {"stream.scenario": scenario}
    if scenario == "class":
        changes["model"] = {"use": f"{__name__}:Incremental"}

    def split(out: Path) -> Job:
        (found,) = plan("split-mnist", [strategy], [0], changes, "digits", out=out)
        return found

    whole = perform(split(tmp_path / "whole"))
    assert whole.failure is None
    killed = split(tmp_path / "killed")
    with pytest.raises(Killed):
        perform(killed, KillAfter(2))
    assert timeless(perform(killed).record) == timeless(whole.record)


def test_known_tasks_give_the_built_in_nets_a_head_each(tmp_path: Path) -> None:
    scores = {}
    for scenario in ("domain", "task"):
        changes = {"training.epochs": 5, "optimizer.lr": 0.1, "stream.scenario": scenario}
        (found,) = plan("split-mnist", ["naive"], [0], changes, "digits", out=tmp_path / scenario)
        record = perform(found).record
        assert record is not None
        scores[scenario] = record["metrics"]["ACC"]
    assert scores["task"] > scores["domain"] + 0.1
    changes = {"stream.scenario": "task", "model": {"use": f"{__name__}:Incremental"}}
    (found,) = plan("split-mnist", ["naive"], [0], changes, "digits", out=tmp_path)
    with pytest.raises(
        UserError, match="Incremental does not end in a linear layer, which heads could take the place of"
    ):
        found.run()


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_finished(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "ong",
        "run",
        "permuted-digits",
        "ong-prior",
        "--out",
        str(tmp_path),
        "--jobs",
        "1",
    ]
    checkpoint = tmp_path / "permuted-digits/ong-prior/seed-0/checkpoint.pt"
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()
    subprocess.run(command, check=True, capture_output=True)
    record = json.loads((checkpoint.parent / "record.json").read_text())
    (whole,) = plan("permuted-digits", ["ong-prior"], [0], out=tmp_path / "whole")
    assert timeless(record) == json.loads(json.dumps(timeless(perform(whole).job.folder.record())))


def test_a_finished_run_is_skipped_and_force_repeats_it(tmp_path: Path) -> None:
    first = perform(job("naive", tmp_path))
    assert not first.skipped
    again = perform(job("naive", tmp_path))
    assert again.skipped
    assert again.record == first.job.folder.record()
    (forced,) = plan("permuted-digits", ["naive"], [0], SETTINGS, out=tmp_path, force=True)
    assert not perform(forced).skipped


def test_records_and_checkpoints_of_other_settings_are_not_taken_for_these(tmp_path: Path) -> None:
    perform(job("naive", tmp_path))
    with pytest.raises(
        UserError, match=r"of another recipe \(strategy\.optimizer\.lr is 0\.02 there, 0\.5 here\).*--force"
    ):
        sweep([job("naive", tmp_path, **{"optimizer.lr": 0.5})], show=False)
    with pytest.raises(UserError, match="Missing"):
        sweep([job("naive", tmp_path, **{"model": {"use": "Missing"}})], show=False)  # not: use --force
    with pytest.raises(Killed):
        perform(job("ogd", tmp_path), KillAfter(1))
    with pytest.raises(UserError, match="other settings.*--force"):
        sweep([job("ogd", tmp_path, **{"optimizer.lr": 0.5})], show=False)


def test_a_broken_checkpoint_or_record_is_named(tmp_path: Path) -> None:
    folder = job("naive", tmp_path).folder.path
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"checkpoint\.pt.*--force"):
        sweep([job("naive", tmp_path)], show=False)
    (folder / "checkpoint.pt").unlink()
    (folder / "record.json").write_text('{"schema": 1,')
    with pytest.raises(UserError, match=r"record\.json.*--force"):
        sweep([job("naive", tmp_path)], show=False)


def test_every_strategy_sees_the_same_net_and_the_first_task_alike(tmp_path: Path) -> None:
    rows = {}
    for strategy in ("naive", "ewc", "ogd", "ong-prior", "gem"):
        record = perform(job(strategy, tmp_path)).record
        assert record is not None
        rows[strategy] = record["accuracy_matrix"][:2]
    assert all(found == rows["naive"] for found in rows.values())
