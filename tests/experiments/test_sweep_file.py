"""Sweep files: which runs they mean, what of them is done, and how they are refused."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ong.errors import UserError
from ong.experiments import forecast, progress
from ong.experiments.forecast import Costs, summary_of
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Overview
from ong.experiments.rehearsal import Rehearsal
from ong.experiments.run_plugins import StepCounter
from ong.experiments.sweep import sweep
from ong.experiments.sweep_file import sweep_jobs

QUICK = '"training.epochs" = 1, "stream.tasks" = 2'
MINE = 'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.1\n'


def written(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sweep.toml").write_text(text)
    return folder / "sweep.toml"


def test_a_file_means_every_combination_and_its_paths_are_seen_from_where_it_lies(tmp_path: Path) -> None:
    path = written(
        tmp_path / "results" / "mine",
        f"""
        out = ".."
        data_root = "../data"
        [[runs]]
        benchmarks = ["permuted-digits", "split-mnist"]
        strategies = ["naive", "./mine.toml"]
        seeds = 2
        dataset = "digits"
        set = {{ {QUICK} }}
        [[runs]]
        benchmarks = ["permuted-digits"]
        strategies = ["replay"]
        seeds = [3, 5]
        overrides = [
            {{ suffix = "-50", "plugins.0.mem_size" = 50 }},
            {{ suffix = "-100", "plugins.0.mem_size" = 100, "optimizer.lr" = 0.2 }},
        ]
        """,
    )
    (path.parent / "mine.toml").write_text(MINE)
    jobs = sweep_jobs(path)
    assert [(job.benchmark.name, job.strategy.name, job.seed) for job in jobs] == [
        *[("permuted-digits", name, seed) for name in ("naive", "mine") for seed in (0, 1)],
        *[("split-mnist-digits", name, seed) for name in ("naive", "mine") for seed in (0, 1)],
        *[("permuted-digits", name, seed) for name in ("replay-50", "replay-100") for seed in (3, 5)],
    ]
    assert {job.out for job in jobs} == {tmp_path / "results"}
    assert {job.data_root for job in jobs} == {tmp_path / "results" / "data"}
    assert jobs[0].benchmark.settings()["training"]["epochs"] == 1
    replays = [job.strategy.settings() for job in jobs[-4:]]
    assert [replay["plugins"][0]["mem_size"] for replay in replays] == [50, 50, 100, 100]
    assert replays[-1]["optimizer"]["lr"] == 0.2 != replays[0]["optimizer"]["lr"]
    elsewhere = sweep_jobs(path, tmp_path / "there", tmp_path / "data")
    assert {(job.out, job.data_root) for job in elsewhere} == {(tmp_path / "there", tmp_path / "data")}


def test_what_is_done_is_told_without_a_run_and_not_repeated(tmp_path: Path) -> None:
    runs = f'[[runs]]\nbenchmarks = ["permuted-digits"]\nstrategies = ["naive"]\nseeds = 2\nset = {{ {QUICK} }}\n'
    path = written(tmp_path, runs)
    first_lines = [*summary_of(sweep_jobs(path))]
    assert re.fullmatch(r"permuted-digits  naive  seeds 0, 1: 2 to do, about [\d.]+ s each", first_lines[0])
    assert first_lines[1] == "2 runs, 0 done"
    assert not (tmp_path / "runs").exists()
    first = sweep(sweep_jobs(path)[:1], show=False)
    assert "seeds 0, 1: 1 done, 1 to do, about" in next(summary_of(sweep_jobs(path)))
    outcomes = sweep(sweep_jobs(path), show=False)
    assert [outcome.skipped for outcome in outcomes] == [True, False]
    assert outcomes[0].record["timing"] == first[0].record["timing"]
    written(tmp_path, runs.replace('tasks" = 2', 'tasks" = 3'))
    assert [*summary_of(sweep_jobs(path))] == [
        "permuted-digits  naive  seeds 0, 1: 2 done with another recipe",
        "2 runs, 0 done",
    ]


def test_strategies_of_one_name_with_other_settings_are_each_built_as_they_are(tmp_path: Path) -> None:
    text = "".join(
        f'[[runs]]\nbenchmarks = ["{name}"]\nstrategies = ["naive"]\nset = {{ {QUICK} }}\ndataset = "digits"\n'
        for name in ("permuted-digits", "rotated-mnist", "split-mnist-class")
    )
    outcomes = sweep(sweep_jobs(written(tmp_path, text)), show=False)
    shapes = [len(outcome.record["accuracy_matrix"][0]) for outcome in outcomes if outcome.record]
    assert shapes == [2, 2, 2]
    names = [outcome.record["benchmark"]["stream"]["name"] for outcome in outcomes if outcome.record]
    assert names == ["permuted", "rotated", "split"]


ONE = 'benchmarks = ["permuted-digits"]\nstrategies = ["naive"]\n'
WRONG = {
    "nothing": ("", "'runs' is missing"),
    "no runs": ("runs = []", "'runs': List should have at least 1 item"),
    "a key that is none": (f"[[runs]]\n{ONE}seed = 3\n", "'runs.0.seed'; did you mean 'runs.0.seeds'?"),
    "twice": (f"[[runs]]\n{ONE}[[runs]]\n{ONE}", "permuted-digits / naive / seed 0 stands in it twice"),
    "no suffix": (f'[[runs]]\n{ONE}overrides = [{{ "optimizer.lr" = 1.0 }}]\n', "suffix' is missing"),
    "a seed twice": (f"[[runs]]\n{ONE}seeds = [0, 0]\n", "sweep.toml': 'seeds' [0, 0]: seeds must be different"),
    "no strategies": (
        '[[runs]]\nbenchmarks = ["permuted-digits"]\nstrategies = []\n',
        "'runs.0.strategies': List should have",
    ),
    "a seed that numpy does not take": (f"[[runs]]\n{ONE}seeds = [5000000000]\n", "from 0 to 4294967295"),
    "a path with a NUL": (f'out = "a\\u0000b"\n[[runs]]\n{ONE}', "null byte"),
    "no seeds": (f"[[runs]]\n{ONE}seeds = 0\n", "'runs.0.seeds': Input should be greater than or equal to 1, got 0"),
    "a suffix that names no folder": (
        f'[[runs]]\n{ONE}overrides = [{{ suffix = "/x", "optimizer.lr" = 1.0 }}]\n',
        "strategy 'naive': 'name'",
    ),
    "not TOML": ("[[runs", "is not TOML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_told(case: str, tmp_path: Path) -> None:
    text, message = WRONG[case]
    with pytest.raises(UserError) as caught:
        sweep_jobs(written(tmp_path, text))
    assert message in str(caught.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the sweep file"):
        sweep_jobs(tmp_path / "gone.toml")


def test_what_is_left_is_estimated_from_finished_runs_of_the_same_recipes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f'[[runs]]\nbenchmarks = ["permuted-digits"]\nstrategies = ["naive", "ogd"]\nseeds = "0-2,5"\nset = {{ {QUICK} }}\n'
    path = written(tmp_path, text)
    jobs = sweep_jobs(path)
    assert [job.seed for job in jobs[:4]] == [0, 1, 2, 5]
    sweep(jobs[:1], show=False)
    record = jobs[0].folder.path / "record.json"
    values = json.loads(record.read_text())
    values["timing"]["total_seconds"] = 90.0
    values["diagnostics"]["memory_bytes"] = [1000, 3000]
    record.write_text(json.dumps(values))
    rehearsed = []

    def rehearse(job: Job) -> Costs:
        rehearsed.append(job.strategy.name)
        return Costs(7.0, 2000, 10**9)

    monkeypatch.setattr(forecast, "_rehearsed", rehearse)
    environment = jobs[0].folder.path / "environment.json"
    environment.write_text(json.dumps(json.loads(environment.read_text()) | {"peak_bytes": 1_500_000_000}))
    assert [*summary_of(jobs, 2)] == [
        "permuted-digits  naive  seeds 0, 1, 2, 5: 1 done, 3 to do, about 90 s each; keeps 3 kB",
        "permuted-digits  ogd  seeds 0, 1, 2, 5: 4 to do, about 7 s each; keeps 2 kB",
        "8 runs, 1 done",
        "about 5.0 min of computing left, 2.5 min with 2 jobs",
        "a process takes about 1.5 GB of memory",
    ]
    assert rehearsed == ["ogd"]
    values["strategy"]["optimizer"]["lr"] = 0.5  # another recipe, which tells nothing of these
    record.write_text(json.dumps(values))
    assert "naive  seeds 0, 1, 2, 5: 4 done with" not in (told := " ".join(summary_of(jobs, 2)))
    assert "naive  seeds 0, 1, 2, 5: 1 done with another recipe, 3 to do, about 7 s each" in told


@pytest.mark.parametrize("a_step", [0.01, 3.0], ids=["every task is rehearsed", "the last ones are extrapolated"])
@pytest.mark.parametrize("strategy", ["naive", "ogd", "replay", "joint"])
def test_a_rehearsal_tells_what_a_run_takes_and_keeps(
    strategy: str, a_step: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def step(counter: StepCounter, learner: Any, **options: Any) -> None:
        nonlocal now
        now += a_step

    monkeypatch.setattr(StepCounter, "after_training_iteration", step)
    monkeypatch.setattr(time, "perf_counter", lambda: now)  # nothing but steps takes time
    (job,) = plan("permuted-digits", [strategy], [0], {"stream.tasks": 4}, out=tmp_path)
    seconds, kept = Rehearsal(job.benchmark, job.strategy, 0).costs()
    record = perform(job).record
    assert record is not None
    assert seconds == pytest.approx(record["timing"]["total_seconds"], rel=1e-9)  # sums of doubles
    known = [found or 0 for found in record["diagnostics"]["memory_bytes"]]
    assert kept == pytest.approx(
        max(known), rel=0.2 if a_step > 1 else 0
    )  # after ten steps the first task packs better


def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    text = '[[runs]]\nbenchmarks = ["permuted-mnist"]\nstrategies = ["naive"]\ndataset = "svhn"\n'
    line, *rest = summary_of(sweep_jobs(written(tmp_path, text)))
    assert "1 to do; its rehearsal fails: " in line
    assert "svhn" in line
    assert rest == ["1 runs, 0 done", "nothing is known of how long they take"]


def test_runs_that_were_not_begun_leave_no_folder(tmp_path: Path) -> None:
    text = '[[runs]]\nbenchmarks = ["permuted-digits"]\nstrategies = ["naive", "./mine.toml"]\n'
    path = written(tmp_path, text)
    (tmp_path / "mine.toml").write_text(MINE.replace("SGD", "SGDD"))
    with pytest.raises(UserError, match="SGDD"):
        sweep(sweep_jobs(path), show=False)
    assert [*(tmp_path / "runs").iterdir()] == []


RAISES = """
from avalanche.core import SupervisedPlugin

class AtOnce(SupervisedPlugin):
    def __init__(self):
        raise KeyError("boo")

class Later(SupervisedPlugin):
    def before_backward(self, strategy, **kwargs):
        raise TypeError("boo")
"""
FAILS = {
    "a network that no machine holds": ('"naive"', '"model.hidden" = [1000000000]', "it needs more than the"),
    "a plugin that cannot be made": ('"./AtOnce.toml"', "", "it cannot be built from its recipes (KeyError: 'boo';"),
    "a plugin that fails": ('"./Later.toml"', "", "10 steps a task end in TypeError: boo"),
    "a device that is not there": ('"naive"', '"training.device" = "cuda"', "'cuda' is not on this machine"),
}


@pytest.mark.parametrize("case", FAILS)
def test_a_rehearsal_that_fails_is_told_and_the_others_go_on(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "device" in case and torch.cuda.is_available():
        pytest.skip("CUDA is here")
    strategy, setting, message = FAILS[case]
    (tmp_path / "raises.py").write_text(RAISES)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("AtOnce", "Later"):
        (tmp_path / f"{name}.toml").write_text(f'{MINE}[[plugins]]\nuse = "raises:{name}"\n')
    groups = [f"strategies = [{strategy}]\nset = {{ {setting} }}", f'strategies = ["ewc"]\nset = {{ {QUICK} }}']
    text = "".join(f'[[runs]]\nbenchmarks = ["permuted-digits"]\n{group}\n' for group in groups)
    lines = [*summary_of(sweep_jobs(written(tmp_path, text)))]
    assert "1 to do; its rehearsal fails: " in lines[0]
    assert message in lines[0]
    assert "1 to do, about" in lines[1]


def test_what_is_no_record_is_not_taken_for_another_recipes(tmp_path: Path) -> None:
    jobs = sweep_jobs(written(tmp_path, f"[[runs]]\n{ONE}"))
    jobs[0].folder.prepare()
    (jobs[0].folder.path / "record.json").write_text("{")
    with pytest.raises(UserError, match="is not a record"):
        [*summary_of(jobs)]


def test_an_overview_is_a_table_of_strategies_and_seeds(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    shown = Overview({f"b / {name} / seed {seed}": 3 for name in ("naive", "ogd") for seed in (0, 3)})
    shown.tell("b / naive / seed 0", 0, 3)
    shown.tell("b / naive / seed 0", 3, 3)
    shown.finish("b / naive / seed 0", None)
    shown.tell("b / ogd / seed 0", 2, 3)
    shown.finish("b / ogd / seed 3", "it broke")
    shown.close()
    lines = [line.split() for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines[-3:] == [
        ["seed", "0", "seed", "3"],
        ["b", "/", "naive", "done", "waiting"],
        ["b", "/", "ogd", "2/3", "failed"],
    ]
    assert lines[-4][:5] == ["2", "of", "4", "runs,", "about"]
