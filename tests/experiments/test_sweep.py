"""What becomes of runs that stop, of folders others work in, and of files that are not what they should be."""

from __future__ import annotations

import gc
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor, nn

from ong.errors import UserError
from ong.experiments import environment
from ong.experiments.continual import ContinualRun
from ong.experiments.jobs import Job, check, perform
from ong.experiments.plan import plan
from ong.experiments.sweep import sweep

SETTINGS = {"training.epochs": 1, "stream.tasks": 2}


class Mixing(nn.Sequential):
    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, 9),
            nn.BatchNorm1d(9, track_running_stats=False),
            nn.Tanh(),
            nn.Linear(9, classes),
        )


class Keeping(SupervisedPlugin):  # type: ignore[misc]
    """Its state is an array of numpy."""

    def state_dict(self) -> dict[str, Any]:
        return {"seen": np.zeros(3)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError


class Forgetful(SupervisedPlugin):  # type: ignore[misc]
    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError


def jobs(out: Path, *strategies: str, **changes: Any) -> list[Job]:
    return plan("permuted-digits", list(strategies), [0], SETTINGS | changes, out=out)


def test_a_strategy_that_refuses_the_model_leaves_the_others_alone(tmp_path: Path) -> None:
    planned = jobs(tmp_path, "owm", "naive", model={"use": f"{__name__}:Mixing"})
    owm, naive = sweep(planned, show=False)
    assert naive.record is not None
    assert owm.wrong
    assert owm.failure is not None
    assert owm.failure.startswith("permuted-digits / owm / seed 0: Mixing gives an example other outputs")
    assert (owm.job.folder.path / "failure.json").exists()


def test_a_folder_in_which_another_process_works_is_left_alone(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "naive")
    job.folder.prepare()
    with job.folder.locked():
        outcome = perform(job)
        assert [path.name for path in job.folder.path.iterdir()] == [".lock"]
    assert outcome.wrong
    assert outcome.failure is not None
    assert "another process is at work in" in outcome.failure
    assert perform(job).record is not None
    assert not (job.folder.path / ".lock").exists()


def test_the_callers_threads_stay_as_many_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        sweep(jobs(tmp_path, "naive"), show=False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("content", ["[]", "3", "{"])
def test_a_file_that_is_no_record_is_named(content: str, tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "naive")
    job.folder.prepare()
    (job.folder.path / "record.json").write_text(content)
    with pytest.raises(UserError, match=r"record\.json' is not a record.*--force"):
        sweep([job], show=False)


@pytest.mark.parametrize("content", [{}, [1], torch.zeros(2)])
def test_a_file_that_is_no_checkpoint_is_named(content: dict[str, Tensor] | list[int] | Tensor, tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "naive")
    job.folder.prepare()
    torch.save(content, job.folder.path / "checkpoint.pt")
    with pytest.raises(
        UserError,
        match=r"checkpoint\.pt' is not a checkpoint, or has changed since it was written; repeat the run with --force",
    ):
        sweep([job], show=False)


@pytest.mark.parametrize("kind", ["Keeping", "Forgetful"])
def test_a_plugin_whose_state_a_checkpoint_cannot_hold_is_named_at_the_start(kind: str, tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    recipe.write_text(
        'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.1\n'
        f'[[plugins]]\nuse = "{__name__}:{kind}"\n'
    )
    (job,) = jobs(tmp_path, str(recipe))
    with pytest.warns(UserWarning, match=f"{kind} has no state_dict and load_state_dict, of tensors and plain values"):
        outcome = perform(job)
    assert outcome.record is not None


def test_a_repeat_that_breaks_off_leaves_the_record_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs(tmp_path, "naive")
    before = perform(job).record

    def interrupted(run: ContinualRun, task: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ContinualRun, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        perform(replace(job, force=True))
    found = job.folder.record()
    assert found is not None
    assert before is not None
    assert found["accuracy_matrix"] == before["accuracy_matrix"]


def test_without_git_a_run_finishes_and_names_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (job,) = jobs(tmp_path, "naive")
    assert perform(job).record is not None
    assert json.loads((job.folder.path / "environment.json").read_text())["commit"] is None


def test_another_repository_around_the_package_is_not_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    inside = tmp_path / "site" / "ong" / "experiments" / "environment.py"
    inside.parent.mkdir(parents=True)
    monkeypatch.setattr(environment, "__file__", str(inside))
    assert environment._commit() is None


def test_words_that_describe_a_recipe_do_not_decide_its_runs(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "naive")
    assert not perform(job).skipped
    told = job.strategy.model_copy(update={"summary": "in other words", "needs": ["nothing"]})
    assert perform(replace(job, strategy=told)).skipped


def test_other_data_make_another_benchmark_tuned_as_the_first(tmp_path: Path) -> None:
    (own,) = plan("permuted-mnist", ["ogd"], [0], SETTINGS, out=tmp_path)
    (other,) = plan("permuted-mnist", ["ogd"], [0], SETTINGS, "digits", out=tmp_path)
    (same,) = plan("permuted-mnist", ["ogd"], [0], SETTINGS, "mnist-10k", out=tmp_path)
    assert (own.benchmark.name, other.benchmark.name) == ("permuted-mnist", "permuted-mnist-digits")
    assert other.strategy == own.strategy
    assert same == own


def test_a_run_that_was_built_to_be_checked_is_let_go_of(tmp_path: Path) -> None:
    (job,) = jobs(tmp_path, "naive")
    check(job)
    assert not any(isinstance(thing, ContinualRun) for thing in gc.get_objects())
