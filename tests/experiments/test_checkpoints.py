"""Checkpoints that are not as they were written, or do not fit: refused in a line that says what to do."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import Killed, timeless

from ong.errors import UserError, WorkStoppedError
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Silent

SETTINGS = {"training.epochs": 1, "stream.tasks": 2}
REFUSED = r"checkpoint\.pt' is not a checkpoint, or has changed since it was written; repeat the run with --force$"


class KillInSecondTask(Silent):
    def __init__(self) -> None:
        self.tasks = 0

    def start_task(self, steps: int) -> None:
        self.tasks += 1
        if self.tasks == 2:
            raise Killed


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Job:
    (job,) = plan("permuted-digits", ["ogd"], [0], SETTINGS, out=tmp_path_factory.mktemp("runs"))
    with pytest.raises(Killed):
        perform(job, KillInSecondTask())
    return job


@pytest.fixture
def checkpoint(killed: Job) -> Any:
    """The path of an intact checkpoint, which is put back afterwards."""
    path = killed.folder.path / "checkpoint.pt"
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def signed(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def written(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return signed(buffer.getvalue())


def test_it_loads_without_running_code_and_is_refused_with_any_bit_turned(killed: Job, checkpoint: Path) -> None:
    assert killed.folder.checkpoint(killed.settings) is not None
    content = checkpoint.read_bytes()
    assert len(torch.load(io.BytesIO(content), weights_only=True)["rows"]) == 2
    choose = random.Random(0)
    places = [0, len(content) - 1, len(content) - 33, *(choose.randrange(len(content)) for _ in range(30))]
    for place in places:
        turned = bytearray(content)
        turned[place] ^= 1 << choose.randrange(8)
        checkpoint.write_bytes(turned)
        with pytest.raises(UserError, match=REFUSED):
            killed.folder.checkpoint(killed.settings)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 33, 0.5])
def test_half_a_file_is_refused(kept: float, killed: Job, checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=REFUSED):
        killed.folder.checkpoint(killed.settings)


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_pickles_in_its_place_are_refused_without_advice_to_trust_them(
    kind: str, killed: Job, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.write_bytes(written({"rows": Harmful()}) if kind == "torch" else signed(pickle.dumps(Harmful())))
    with pytest.raises(UserError, match=REFUSED):
        killed.folder.checkpoint(killed.settings)
    assert not (tmp_path / "harmed").exists()


def changed(killed: Job, **parts: Any) -> None:
    """Write a checkpoint of the run with some of its parts replaced; those that are None are left out."""
    state = killed.folder.checkpoint(killed.settings)
    assert state is not None
    killed.folder.save_checkpoint({k: v for k, v in (state | parts).items() if v is not None}, killed.settings)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_named(value: float, killed: Job, checkpoint: Path) -> None:
    state = killed.folder.checkpoint(killed.settings)
    assert state is not None
    name, weights = next(iter(state["model"]["weights"].items()))
    weights[0, 0] = value
    changed(killed, model=state["model"])
    with pytest.raises(UserError, match=f"not finite in 'model.weights.{name}'; repeat the run with --force"):
        killed.folder.checkpoint(killed.settings)


@pytest.mark.parametrize("case", ["shape", "a part is missing", "too few plugins", "another type"])
def test_what_does_not_fit_the_run_is_told_and_nothing_is_trained(case: str, killed: Job, checkpoint: Path) -> None:
    state = killed.folder.checkpoint(killed.settings)
    assert state is not None
    if case == "shape":
        name = next(iter(state["model"]["weights"]))
        state["model"]["weights"][name] = torch.zeros(3, 3)
        changed(killed, model=state["model"])
    elif case == "a part is missing":
        changed(killed, rows=None)
    elif case == "too few plugins":
        changed(killed, plugins=state["plugins"][:-1])
    else:
        changed(killed, plugins=3)
    outcome = perform(killed)
    assert outcome.wrong
    assert outcome.failure is not None
    assert "checkpoint.pt' does not fit this run (" in outcome.failure
    assert outcome.failure.endswith("repeat the run with --force")
    assert "\n" not in outcome.failure
    (killed.folder.path / "failure.json").unlink()


def test_a_full_disk_stops_a_run_in_a_line_and_the_checkpoint_before_stays(
    checkpoint: Path, killed: Job, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise WorkStoppedError("cannot write 'record.json': No space left on device")

    before = checkpoint.read_bytes()
    monkeypatch.setattr("ong.experiments.store.write_text", full)
    outcome = perform(killed)
    assert outcome.failure == "permuted-digits / ogd / seed 0: cannot write 'record.json': No space left on device"
    assert not outcome.wrong
    assert capfd.readouterr().err == ""
    assert checkpoint.read_bytes() == before
    assert [p.name for p in killed.folder.path.iterdir()] == ["checkpoint.pt"]


def test_an_intact_one_is_taken(killed: Job, checkpoint: Path, tmp_path: Path) -> None:
    (whole,) = plan("permuted-digits", ["ogd"], [0], SETTINGS, out=tmp_path)
    outcome = perform(killed)
    assert timeless(outcome.record) == timeless(perform(whole).record)
