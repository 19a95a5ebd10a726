"""Loggers: what they are told of a run, what becomes of runs whose loggers fail, and what is refused."""

from __future__ import annotations

import os
import pickle
import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from kills import Killed, timeless

from ong.errors import UserError
from ong.experiments import loggers
from ong.experiments.jobs import Job, check, perform
from ong.experiments.loggers import Logger, RunInfo, make_loggers
from ong.experiments.plan import plan
from ong.experiments.progress import Silent
from ong.experiments.schema import LoggerRecipe

SETTINGS = {"training.epochs": 2, "stream.tasks": 2}
OTHER_KINDS = {
    ("deep-linear", "sgd"): {
        "dims": [5, 4, 3],
        "train": 200,
        "test": 100,
        "convergence_seeds": 0,
        "theory.steps": 5,
        "epochs": 3,
        "rates": [0.001],
    },
    ("fisher-variance-digits", "tanh"): {
        "training.epochs": 2,
        "measure.inputs": 8,
        "measure.repeats": 50,
        "measure.ekfac_repeats": 2,
        "measure.relative_errors": [0.5],
    },
    ("mnist-autoencoder", "sgd"): {"dataset": "digits", "net": [64, 16, 4, 16, 64], "training.epochs": 2},
}


class Noting(Logger):
    """Keeps what it is told, and takes random numbers meanwhile, as trackers may for the names of their runs."""

    told: ClassVar[list[tuple[str, Any, Any]]] = []

    def _note(self, what: str, step: Any, values: Any) -> None:
        self.told.append((what, step, values))
        random.random()
        np.random.rand()  # noqa: NPY002
        torch.rand(1)

    def start(self, run: RunInfo) -> int:
        self._note("start", run.last, run)
        return run.last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._note("log", step, dict(values))

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        self._note("finish", None, metrics)


class Failing(Logger):
    """Fails where it is asked to."""

    def __init__(self, at: str) -> None:
        self.at = at

    def _fail(self, at: str) -> None:
        if at == self.at:
            raise OSError("the network is gone")

    def start(self, run: RunInfo) -> int:
        self._fail("start")
        return run.last

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._fail("log")

    def finish(self, metrics: Mapping[str, float] | None) -> None:
        self._fail("finish")


class Late(Noting):
    """Has nothing yet of a run that resumes."""

    def start(self, run: RunInfo) -> int:
        super().start(run)
        return -1


NOTING, FAILING, LATE = (f"{__name__}:{name}" for name in ("Noting", "Failing", "Late"))


class KillIn(Silent):
    """Kills in the third step of a task, counted from 1."""

    def __init__(self, task: int) -> None:
        self.left, self.steps = task, 3

    def start_task(self, steps: int) -> None:
        self.left -= 1

    def step(self) -> None:
        if self.left == 0:
            self.steps -= 1
            if not self.steps:
                raise Killed


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    Noting.told.clear()


def job(out: Path, *names: str, changes: dict[str, Any] = SETTINGS, strategy: str = "naive") -> Job:
    (made,) = plan("permuted-digits", [strategy], [0], changes, out=out, loggers=names)
    return made


def steps() -> list[int]:
    return [step for what, step, _ in Noting.told if what == "log"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of a run without loggers."""
    return timeless(perform(job(tmp_path_factory.mktemp("bare"))).record)


def test_a_run_over_tasks_logs_every_number_of_its_record_once(bare: dict[str, Any], tmp_path: Path) -> None:
    assert timeless(perform(job(tmp_path, NOTING)).record) == bare
    assert [what for what, _, _ in Noting.told] == ["start", *["log"] * 5, "finish"]
    assert steps() == [0, 1, 2, 3, 4]
    logged = [values for what, _, values in Noting.told if what == "log"]
    rows = [[logged[step][f"accuracy/task-{task}"] for task in range(2)] for step in (0, 2, 4)]
    assert rows == bare["accuracy_matrix"]
    assert ["loss" in values for values in logged] == [False, True, True, True, True]
    assert logged[2]["loss"] < logged[1]["loss"]
    assert logged[4]["ACC"] == bare["metrics"]["ACC"]
    assert logged[4]["learning_accuracy"] == bare["metrics"]["learning_accuracy"]
    for name in ("leak", "descent_cosine"):
        means = [logged[step].get(f"diagnostics/{name}") for step in (2, 4)]
        assert means == bare["diagnostics"][name]
    finite = {name: value for name, value in bare["metrics"].items() if value is not None}
    assert Noting.told[-1] == ("finish", None, finite)


@pytest.mark.parametrize("at", ["start", "log", "finish"])
def test_a_logger_that_fails_is_told_once_and_costs_nothing(at: str, bare: dict[str, Any], tmp_path: Path) -> None:
    changes = SETTINGS | {"loggers.0.at": at}
    failing = job(tmp_path, FAILING, NOTING, changes=changes)
    with pytest.warns(
        UserWarning, match=r"Failing .* failed \(OSError: the network is gone\); the run goes on"
    ) as said:
        outcome = perform(failing)
    assert len(said) == 1
    assert timeless(outcome.record) == bare
    assert steps() == [0, 1, 2, 3, 4]


def test_a_pipe_where_the_csv_file_belongs_fails_the_logger_and_not_the_run(
    bare: dict[str, Any], tmp_path: Path
) -> None:
    made = job(tmp_path, "csv")
    made.folder.path.mkdir(parents=True)
    os.mkfifo(made.folder.path / "log.csv")
    with pytest.warns(UserWarning, match=r"logger csv failed \(UserError: '.*log.csv' is a pipe"):
        assert timeless(perform(made).record) == bare


def test_a_run_done_anew_without_loggers_leaves_no_log_of_the_one_before(tmp_path: Path) -> None:
    assert perform(job(tmp_path, "csv", "tensorboard")).record is not None
    made = job(tmp_path)
    assert {path.name for path in made.folder.path.iterdir()} > {"log.csv", "tensorboard"}
    assert perform(replace(made, force=True)).record is not None
    assert {path.name for path in made.folder.path.iterdir()} == {"record.json", "environment.json"}


def test_a_run_that_resumes_logs_no_step_again_and_what_a_logger_lacks(bare: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        perform(job(tmp_path, NOTING), KillIn(task=2))
    assert steps() == [0, 1, 2]
    assert Noting.told[-1] == ("finish", None, None)
    before = list(Noting.told)
    Noting.told.clear()
    assert timeless(perform(job(tmp_path, NOTING, LATE)).record) == bare
    first, again, anew = [run for what, _, run in (*before, *Noting.told) if what == "start"]
    assert (again.id, again.last) == (anew.id, anew.last) == (first.id, 2)
    assert steps() == [0, 1, 2, 3, 3, 4, 4]  # the first three to the new one alone
    assert [told for told in Noting.told if told[0] == "log"][:3] == [told for told in before if told[0] == "log"]
    assert not list(tmp_path.rglob("logged.jsonl"))


def test_a_logger_that_is_added_when_a_run_resumes_hears_of_finished_tasks(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        perform(job(tmp_path), KillIn(task=2))
    perform(job(tmp_path, NOTING))
    assert steps() == [0, 2, 3, 4]


def test_a_run_killed_in_its_first_task_begins_anew_with_the_steps_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        perform(job(tmp_path, NOTING), KillIn(task=1))
    assert steps() == [0]
    (notes,) = tmp_path.rglob("logged.jsonl")
    notes.write_text(notes.read_text() + '[1, {"lo')  # killed while it noted
    perform(job(tmp_path, NOTING))
    assert steps() == [0, 1, 2, 3, 4]


def test_another_run_in_the_folder_of_an_unfinished_one_has_an_id_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        perform(job(tmp_path, NOTING), KillIn(task=1))
    perform(job(tmp_path, NOTING, changes=SETTINGS | {"optimizer.lr": 0.01}))
    first, second = [run for what, _, run in Noting.told if what == "start"]
    assert first.id != second.id
    assert second.last == -1
    assert steps() == [0, 0, 1, 2, 3, 4]


def test_finished_runs_are_not_logged_again(tmp_path: Path) -> None:
    perform(job(tmp_path))
    assert perform(job(tmp_path, NOTING)).skipped
    assert not Noting.told


def test_what_is_kept_of_loggers_is_refused_where_it_is_something_else(tmp_path: Path) -> None:
    made = job(tmp_path, NOTING)
    made.folder.prepare()
    (made.folder.path / "logged.jsonl").write_text('{"id": 3}')
    outcome = perform(made)
    assert outcome.wrong
    assert "logged.jsonl' is not what loggers leave of an unfinished run; remove it" in str(outcome.failure)


def test_joint_training_and_pieces_of_a_stream_log_their_tasks(tmp_path: Path) -> None:
    perform(job(tmp_path, NOTING, strategy="joint"))
    assert steps() == [0, 1, 2]
    Noting.told.clear()
    perform(job(tmp_path, NOTING, changes=SETTINGS | {"training.online": 200}))
    assert steps() == [0, 1, 2]
    assert all("loss" in values for what, step, values in Noting.told if what == "log" and step)


@pytest.mark.parametrize(("benchmark", "strategy"), OTHER_KINDS)
def test_other_kinds_log_their_curves(benchmark: str, strategy: str, tmp_path: Path) -> None:
    (made,) = plan(benchmark, [strategy], [0], OTHER_KINDS[benchmark, strategy], out=tmp_path, loggers=[NOTING])
    record = perform(made).record
    assert record is not None
    assert steps() == record["history"]["epoch"]
    logged = [values["test_loss"] for what, _, values in Noting.told if what == "log"]
    assert logged == record["history"]["test_loss"]


def test_the_choice_travels_to_workers_and_into_no_record(tmp_path: Path) -> None:
    made = job(tmp_path, "csv", NOTING)
    there = pickle.loads(pickle.dumps(made))
    assert list(make_loggers(there.benchmark.loggers)) == ["csv", NOTING]
    assert made.settings == job(tmp_path).settings
    assert made.recipes == job(tmp_path).recipes


def test_a_logger_that_is_in_the_recipe_keeps_its_options(tmp_path: Path) -> None:
    recipe = tmp_path / "own.toml"
    text = (Path(__file__).parents[2] / "benchmarks/permuted-digits.toml").read_text()
    recipe.write_text(f'{text}\n[[loggers]]\nuse = "{FAILING}"\nat = "log"\n')
    (made,) = plan(str(recipe), ["naive"], [0], out=tmp_path, loggers=[FAILING, "csv"])
    assert [logger.options for logger in made.benchmark.loggers] == [{"at": "log"}, {}]


@pytest.mark.parametrize(
    ("tables", "why"),
    [
        ([{"name": "tensorbord"}], "unknown logger 'tensorbord'; did you mean 'tensorboard'?"),
        ([{"name": "csv", "use": NOTING}], "give either 'name' .* or 'use'"),
        ([{}], "give either 'name' .* or 'use'"),
        ([{"name": "csv"}, {"name": "csv"}], "two tables are the same, csv; leave one out"),
        ([{"name": "csv", "folder": "x"}], "'folder'"),
        ([{"use": "builtins:dict"}], "not a subclass of ong.experiments.loggers.Logger"),
        ([{"use": FAILING}], "'at'"),
    ],
)
def test_wrong_tables_are_input_errors(tables: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(UserError, match=why):
        make_loggers([LoggerRecipe(**table) for table in tables])


def test_a_name_of_no_logger_is_told_when_runs_are_planned(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown logger 'wand'; did you mean 'wandb'"):
        job(tmp_path, "wand")


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "wandb"])
def test_a_package_that_is_missing_is_told_before_anything_trains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    with pytest.raises(
        UserError, match=rf"logger '{name}' needs the package {name}; install it: pip install 'ong\[{name}\]'"
    ):
        check(job(tmp_path, name))


def test_the_page_on_trackers_tells_the_truth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs/trackers.md").read_text(encoding="utf-8")
    pivot, own = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tables,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    wandb, csv = tomllib.loads(tables)["loggers"]
    assert len(make_loggers([LoggerRecipe(**wandb, mode="offline"), LoggerRecipe(**csv)])) == 2
    (tmp_path / "mine.py").write_text(own)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = job(tmp_path, "mine:Lines", "csv")
    monkeypatch.chdir(tmp_path)
    outcome = perform(made)
    record = outcome.record
    assert record is not None, outcome.failure
    first, *lines, last = Path("lines.txt").read_text().splitlines()
    assert first.split() == ["permuted-digits/naive/seed-0", str(record["strategy"]["optimizer"]["lr"])]
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2, 3, 4]
    assert f"'ACC': {record['metrics']['ACC']}" in last
    monkeypatch.chdir(made.folder.path)
    scope: dict[str, Any] = {}
    exec(pivot, scope)
    assert scope["table"].loc[4, "ACC"] == record["metrics"]["ACC"]
