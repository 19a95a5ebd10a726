"""The command line as a user meets it: what it prints, what it writes, and how it refuses wrong input."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ong.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
Result = tuple[int, str, str]
Command = Callable[..., Result]


@pytest.fixture
def ong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the command line in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


QUICK = ("--set", "training.epochs=1", "--set", "stream.tasks=2", "--jobs", "1")


def test_the_version_is_told(ong: Command) -> None:
    code, out, _ = ong("--version")
    assert code == 0
    assert re.fullmatch(r"ong \d+\.\d+\.\d+, Python 3\.\d+\.\d+, torch \S+\n", out)


def test_list_names_every_recipe_and_data_set(ong: Command) -> None:
    code, out, _ = ong("list")
    assert code == 0
    for name in (
        "naive",
        "joint",
        "ogd",
        "ong-prior",
        "permuted-mnist",
        "rotated-mnist",
        "mnist-10k",
        "digits",
    ):
        assert name in out


def test_run_prints_the_table_and_writes_records_of_the_promised_form(ong: Command, tmp_path: Path) -> None:
    code, out, err = ong("run", "permuted-digits", "naive", "joint", *QUICK)
    assert code == 0
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        "permuted-digits / naive / seed 0: done",
        "permuted-digits / joint / seed 0: done",
    ]
    assert "naive" in out
    assert "ACC" in out
    record = json.loads((tmp_path / "runs/permuted-digits/naive/seed-0/record.json").read_text())
    assert set(record) == {
        "schema", "benchmark", "strategy", "seed", "accuracy_matrix", "metrics", "diagnostics", "timing",
    }  # fmt: skip
    assert set(record["metrics"]) == {
        "ACC", "learning_accuracy", "BWT", "forgetting", "forgetting_first", "FWT", "intransigence", "recovered",
    }  # fmt: skip
    assert [len(row) for row in record["accuracy_matrix"]] == [2, 2, 2]
    joint = json.loads((tmp_path / "runs/permuted-digits/joint/seed-0/record.json").read_text())
    assert joint["accuracy_matrix"][1] == [None, None]
    assert joint["metrics"]["ACC"] == pytest.approx(sum(joint["accuracy_matrix"][2]) / 2)
    environment = json.loads((tmp_path / "runs/permuted-digits/naive/seed-0/environment.json").read_text())
    assert environment["threads"] == 1
    assert environment["packages"]["avalanche-lib"]


def test_seeds_show_and_report(ong: Command, tmp_path: Path) -> None:
    code, out, _ = ong("run", "permuted-digits", "naive", "ogd", "--seeds", "2", *QUICK)
    assert code == 0
    assert "±" in out
    code, out, _ = ong("show", "runs/permuted-digits/ogd/seed-1")
    assert code == 0
    assert "seed 1" in out
    assert "leak" in out
    code, out, _ = ong("report", "runs")
    assert code == 0
    written = [Path(line) for line in out.split()]
    assert all((tmp_path / path).exists() for path in written)
    assert {path.suffix for path in written} == {".md", ".csv", ".tex", ".html", ".png", ".svg"}


@pytest.mark.slow
def test_parallel_runs_give_the_records_of_sequential_ones(ong: Command, tmp_path: Path) -> None:
    quick = QUICK[:-2]
    code, _, err = ong("run", "permuted-digits", "naive", "ogd", *quick, "--jobs", "2", "--out", "two")
    assert code == 0, err
    assert ong("run", "permuted-digits", "naive", "ogd", *quick, "--jobs", "1", "--out", "one")[0] == 0
    for strategy in ("naive", "ogd"):
        one, two = (
            json.loads((tmp_path / folder / "permuted-digits" / strategy / "seed-0/record.json").read_text())
            for folder in ("one", "two")
        )
        assert {k: v for k, v in one.items() if k != "timing"} == {k: v for k, v in two.items() if k != "timing"}


RECIPE = 'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.1\n'
WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "benchmark": (("run", "permuted-minst", "naive"), "unknown benchmark 'permuted-minst'; did you mean 'permuted-mnist'?"),
    "strategy": (("run", "permuted-digits", "naiv"), "unknown strategy 'naiv'; did you mean 'naive'?"),
    "data set": (("run", "permuted-digits", "naive", "--dataset", "digit"), "did you mean 'digits'?"),
    "command": (("rum",), "No such command"),
    "option": (("run", "permuted-digits", "--sed", "3"), "No such option"),
    "recipe key": (("run", "permuted-digits", "naive", "--set", "trainig.epochs=1"), "did you mean 'training'?"),
    "recipe key without its section": (("run", "permuted-digits", "naive", "--set", "epochs=1"), "did you mean 'training.epochs'?"),
    "option without its section": (("run", "permuted-digits", "ogd", "--set", "lr=1"), "did you mean 'optimizer.lr'?"),
    "recipe key like no other": (("run", "permuted-digits", "naive", "--set", "zzz=1"), "known: dataset, diagnostics, kind, loggers, memory, model, name, needs, on,"),
    "inner key": (("run", "permuted-digits", "naive", "--set", "training.epoch=1"), "did you mean 'training.epochs'?"),
    "plugin option": (("run", "permuted-digits", "ogd", "--set", "plugins.0.direction=gtl"), "did you mean 'directions'?"),
    "plugin value": (("run", "permuted-digits", "ogd", "--set", "plugins.0.directions=glt"), "plugin OGD: 'directions': Input should be 'gtl', 'ave', 'all' or 'loss', got 'glt'"),
    "no such plugin": (("run", "permuted-digits", "ogd", "naive", "--set", "plugins.0.damping=1"), "'plugins.0.damping' of strategy 'naive'"),
    "half a direction": (("run", "permuted-digits", "ogd", "--set", "plugins.0.directions_per_task=2.5"), "plugin OGD: 'directions_per_task': Input should be a valid integer, got 2.5"),
    "a decimal comma": (("run", "permuted-digits", "naive", "--set", "optimizer.lr=0,1"), "'optimizer.lr' of strategy 'naive' is a number, 0.02; got '0,1'"),
    "true for a number": (("run", "permuted-digits", "naive", "--set", "training.epochs=true"), "'training.epochs' of benchmark 'permuted-digits' is a number, 2; got True"),
    "true where nothing is declared": (("run", "permuted-digits", "ewc", "--set", "plugins.0.ewc_lambda=true"), "'plugins.0.ewc_lambda' of strategy 'ewc' is a number, 30.0; got True"),
    "text for a flag": (("run", "permuted-digits", "naive", "--set", "optimizer.nesterov=yes"), "optimizer SGD: 'nesterov': Input should be a valid boolean, got 'yes'"),
    "one width": (("run", "permuted-digits", "naive", "--set", "model.hidden=100"), "model mlp: 'hidden': Input should be a valid array, got 100"),
    "a date": (("run", "permuted-digits", "naive", "--set", "optimizer.lr=2026-11-26"), "strategy 'naive'"),
    "a name that leads elsewhere": (("run", "permuted-digits", "elsewhere.toml"), "'name': String should match pattern"),
    "stream option": (("run", "permuted-digits", "naive", "--set", "stream.task=2"), "did you mean 'tasks'?"),
    "model option": (("run", "permuted-digits", "naive", "--set", "model.hiden=[3]"), "did you mean 'hidden'?"),
    "optimizer option": (("run", "permuted-digits", "naive", "--set", "optimizer.rl=1"), "unknown option of optimizer SGD"),
    "steps by a closure": (("run", "permuted-digits", "naive", "--set", "optimizer.use=torch.optim:LBFGS"), "optimizer LBFGS evaluates the loss several times a step"),
    "two methods": (("run", "permuted-digits", "two.toml"), "strategy 'two': OGD and NCL each rewrite the steps; keep one"),
    "a logger's option": (("run", "permuted-digits", "naive", "--set", 'loggers=[{name="csv", nope=1}]'), "'nope'; there are none"),
    "a cluster's address": (("sweep", "broken.toml", "--dry-run", "--cluster", ""), "--cluster '': give a Dask scheduler's address"),
    "a cluster and jobs": (("sweep", "broken.toml", "--jobs", "3", "--cluster", "dask://a:1"), "--jobs 3 and --cluster dask://a:1: give one of them"),
    "learning rate": (("run", "permuted-digits", "naive", "--set", "optimizer.lr=-1"), "Invalid learning rate"),
    "zero damping": (("run", "permuted-digits", "ong-prior", "--set", "plugins.0.damping=0"), "damping must be positive, got 0"),
    "negative damping": (("run", "permuted-digits", "ong", "--set", "plugins.0.damping=-1"), "damping must be positive, got -1"),
    "zero tasks": (("run", "permuted-digits", "naive", "--set", "stream.tasks=0"), "tasks"),
    "zero epochs": (("run", "permuted-digits", "naive", "--set", "training.epochs=0"), "'training.epochs'"),
    "zero seeds": (("run", "permuted-digits", "naive", "--seeds", "0"), "the count must be from 1 to 1000; one seed alone is --seed 0"),
    "negative seed": (("run", "permuted-digits", "naive", "--seeds", "-3"), "--seeds '-3'"),
    "negative seed in a list": (("run", "permuted-digits", "naive", "--seeds", "1,-3"), "of seeds from 0 to"),
    "seeds in words": (("run", "permuted-digits", "naive", "--seeds", "two"), "--seeds 'two'"),
    "jobs": (("run", "permuted-digits", "naive", "--jobs", "-1"), "--jobs -1"),
    "setting": (("run", "permuted-digits", "naive", "--set", "lr"), "key=value"),
    "twice": (("run", "permuted-digits", "naive", "naive"), "'naive' is asked for twice"),
    "not TOML": (("run", "permuted-digits", "broken.toml"), "'broken.toml' is not TOML"),
    "no file": (("run", "permuted-digits", "gone.toml"), "cannot read the strategy recipe 'gone.toml'"),
    "no plugin": (("run", "permuted-digits", "linear.toml"), "not a subclass of avalanche.core.BasePlugin"),
    "no module": (("run", "permuted-digits", "nowhere.toml"), "cannot import 'no.where'"),
    "unknown key in a file": (("run", "permuted-digits", "typo.toml"), "unknown key of strategy recipe 'typo.toml': 'optimiser'; did you mean 'optimizer'?"),
    "no such device": (("run", "permuted-digits", "ogd", "--device", "cuda:77"), "device 'cuda:77' is not on this machine, which has: "),
    "no device": (("run", "permuted-digits", "ogd", "--device", "gpu"), "device 'gpu' is none of auto, cpu, cuda, cuda:N, mps"),
    "no device of a finished run": (("run", "permuted-digits", "naive", "--device", "gpu"), "device 'gpu' is none of"),
    "a file without its ending": (("run", "permuted-digits", "linear"), "did you mean the file ./linear.toml?"),
    "a strategy first": (("run", "ogd", "permuted-digits"), "'ogd' is a strategy; the benchmark comes first"),
    "unwritable": (("run", "permuted-digits", "naive", "--out", "/proc/nowhere"), "cannot write to the output folder"),
    "no folder": (("run", "permuted-digits", "naive", "--out", ""), "'--out': it is empty; the present folder is ."),
    "no folder of a search": (("tune", "permuted-digits", "naive", "--out", " "), "'--out': it is empty"),
    "no data root": (("run", "permuted-digits", "naive", "--data-root", ""), "'--data-root': it is empty"),
    "no records": (("report", "."), "no record"),
    "no format": (("report", ".", "--format", ""), "no format to write; give any of png,svg,pdf,csv,matrices,npz,md,tex,html"),
    "baseline": (("compare", ".", "--baseline", "nave"), "no record.json under it"),
    "format": (("report", ".", "--format", "htm"), "did you mean 'html'?"),
    "not a record": (("show", "broken.toml"), "broken.toml"),
    "reported seeds": (("tune", "permuted-digits", "naive", "--seeds", "3"), "seed 0 is not a tuning seed"),
    "no trials": (("tune", "permuted-digits", "naive", "--trials", "0"), "--trials 0"),
    "jobs of a search": (("tune", "permuted-digits", "naive", "--jobs", "-2"), "--jobs -2"),
    "half a search": (("tune", "permuted-digits", "half.toml"), "[search] 'optimizer.lr': give low and high (log if wanted), or choices, a list; 'high' is missing"),
    "a search among one": (("tune", "permuted-digits", "one.toml"), "[search] 'optimizer.lr': give low and high (log if wanted), or choices, a list;"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_in_one_line_that_says_what_is_right(case: str, ong: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("summary = ")
    (tmp_path / "linear.toml").write_text(RECIPE + '[[plugins]]\nuse = "torch.nn:Linear"\n')
    (tmp_path / "nowhere.toml").write_text(RECIPE + '[[plugins]]\nuse = "no.where:Plugin"\n')
    (tmp_path / "typo.toml").write_text(RECIPE.replace("[optimizer]", "[optimiser]"))
    (tmp_path / "elsewhere.toml").write_text('name = "../elsewhere"\n' + RECIPE)
    (tmp_path / "two.toml").write_text(
        RECIPE + "".join(f'[[plugins]]\nuse = "ong:{name}"\n' for name in ("OGD", "NCL"))
    )
    (tmp_path / "half.toml").write_text(RECIPE + '[search]\n"optimizer.lr" = { low = 0.1 }\n')
    (tmp_path / "one.toml").write_text(RECIPE + '[search]\n"optimizer.lr" = { choices = 0.1 }\n')
    arguments, expected = WRONG[case]
    code, out, err = ong(*arguments)
    assert code == 2
    assert expected in err
    assert err.startswith("ong: ")
    assert err.count("\n") == 1
    assert "ACC" not in out
    assert not (tmp_path / "runs/permuted-digits/naive/seed-0/record.json").exists()


def test_a_diverging_run_is_named_and_the_others_go_on(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "wild.toml").write_text(RECIPE.replace("0.1", "1e30"))
    code, out, err = ong("run", "permuted-digits", "wild.toml", "naive", *QUICK)
    assert code == 1
    assert "wild / seed 0: the loss is" in err
    assert "at task 0, step" in err
    assert "naive" in out
    assert (tmp_path / "runs/permuted-digits/naive/seed-0/record.json").exists()
    failure = json.loads((tmp_path / "runs/permuted-digits/wild/seed-0/failure.json").read_text())
    assert failure["strategy"] == "wild"
    assert failure["step"] > 0
    assert ong("report", "runs")[0] == 0
    assert "wild" in (tmp_path / "runs/report.md").read_text()


def test_finished_tasks_of_a_diverging_run_are_kept(ong: Command, tmp_path: Path) -> None:
    recipe = RECIPE + '[[plugins]]\nuse = "avalanche.training.plugins:EWCPlugin"\newc_lambda = 1e30\n'
    (tmp_path / "stiff.toml").write_text(recipe)
    code, _, err = ong("run", "permuted-digits", "stiff.toml", *QUICK)
    assert code == 1
    assert "at task 1, step" in err
    assert (tmp_path / "runs/permuted-digits/stiff/seed-0/checkpoint.pt").exists()


def test_a_run_whose_last_step_diverges_is_named_too(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "wild.toml").write_text(RECIPE.replace("0.1", "1e38"))
    one_step = (
        "--set",
        "training.epochs=1",
        "--set",
        "training.batch_size=2000",
        "--set",
        "stream.tasks=1",
        "--jobs",
        "1",
    )
    code, _, err = ong("run", "permuted-digits", "wild.toml", *one_step)
    assert code == 1
    assert "not finite at task 0, step 1" in err or "not finite at the evaluation after task 0" in err
    assert "Traceback" not in err
    ncl = RECIPE.replace("0.1", "1e20") + '[[plugins]]\nuse = "ong.plugins:NCL"\n'
    (tmp_path / "wilder.toml").write_text(ncl)
    code, _, err = ong("run", "permuted-digits", "wilder.toml", *one_step)
    assert code == 1
    assert "the outputs are not finite: weights or inputs have diverged" in err
    assert "Traceback" not in err


def test_a_record_of_another_schema_shows_before_anything_is_trained(ong: Command, tmp_path: Path) -> None:
    ong("run", "permuted-digits", "naive", *QUICK)
    path = tmp_path / "runs/permuted-digits/naive/seed-0/record.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 0}))
    code, _, err = ong("run", "permuted-digits", "naive", "ewc", *QUICK)
    assert code == 2
    assert "schema version 0" in err
    assert not (tmp_path / "runs/permuted-digits/ewc").exists()


def test_finished_runs_are_skipped_and_said_to_be(ong: Command) -> None:
    ong("run", "permuted-digits", "naive", *QUICK)
    code, out, _ = ong("run", "permuted-digits", "naive", *QUICK)
    assert code == 0
    assert "1 of 1 runs were finished before" in out


def test_tuning_prints_the_block_for_the_recipe_and_writes_it(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE + '[search]\n"optimizer.lr" = { low = 0.01, high = 0.1, log = true }\n')
    code, out, _ = ong("tune", "permuted-digits", "mine.toml", "--trials", "2", "--write", *QUICK)
    assert code == 0
    assert "[on.permuted-digits]" in out
    told = next(
        line for line in (tmp_path / "mine.toml").read_text().splitlines() if line.startswith("[on.permuted-digits]")
    )
    assert "# best of 2 trials: ACC 0." in told
    assert told.endswith("on held-out training data, seeds 1000")
    written = tomllib.loads((tmp_path / "mine.toml").read_text())["on"]["permuted-digits"]["optimizer.lr"]
    best = next(line.split()[4] for line in out.splitlines() if f"optimizer.lr={written:g}" in line)
    assert "ACC is on a sixth of each task's training data, which the trial did not train on" in out
    held_out = "--set", "training.validation=true"
    assert ong("run", "permuted-digits", "mine.toml", "--seeds", "1000,", *held_out, *QUICK)[0] == 0
    record = json.loads((tmp_path / "runs/permuted-digits/mine/seed-1000/record.json").read_text())
    assert f"{record['metrics']['ACC']:.4f}" == best  # what is written is what was tried


def test_a_search_that_is_repeated_does_only_the_trials_it_lacks(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE + '[search]\n"optimizer.lr" = { low = 0.01, high = 0.1, log = true }\n')
    search = "tune", "permuted-digits", "mine.toml", "--trials", "3", "--jobs", "1", *QUICK
    code, first, _ = ong(*search)
    assert code == 0
    records = sorted(tmp_path.glob("tuning/trial-*/permuted-digits/mine/seed-1000/record.json"))
    assert len(records) == 3
    times = [record.stat().st_mtime_ns for record in records]
    assert ong(*search)[:2] == (0, first)
    assert [record.stat().st_mtime_ns for record in records] == times
    assert "1 trials to do" in ong(*search[:4], "4", *search[5:], "--dry-run")[1]
    assert ong(*search, "--force")[:2] == (0, first)
    assert all(record.stat().st_mtime_ns > time for record, time in zip(records, times, strict=True))
    assert ong("report", "tuning")[:2] == (0, "tuning/tuning.html\n")
    code, _, err = ong("report", "tuning", "--only", "mine")
    assert (code, err) == (2, "ong: 'tuning' holds searches, whose page takes no options; give its folder alone\n")


def test_strategies_are_compared_with_a_baseline(ong: Command) -> None:
    ong("run", "permuted-digits", "naive", "ogd", *QUICK, "--seeds", "2")
    code, out, err = ong("compare", "runs")
    assert (code, err) == (0, "")
    assert "permuted-digits: differences from naive, paired by seed" in out
    assert next(line.split()[:2] for line in out.splitlines() if "ogd" in line) == ["ogd", "2"]


def test_equal_points_of_a_search_are_one_run(ong: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE + '[search]\n"optimizer.lr" = { choices = [0.1] }\n')
    code, out, _ = ong("tune", "permuted-digits", "mine.toml", "--trials", "3", *QUICK[:-2], "--jobs", "2")
    assert code == 0
    assert len({line.partition(": ")[2] for line in out.splitlines()[:3]}) == 1
    assert out.startswith("mine  trial 0: ACC 0.")
    assert len(list(tmp_path.rglob("record.json"))) == 1
    (tmp_path / "mine.toml").write_text(RECIPE + '[search]\n"optimizer.lr" = { choices = [0.2, 0.3] }\n')
    code, _, err = ong("tune", "permuted-digits", "mine.toml", "--trials", "3", *QUICK)
    assert code == 2
    assert err == "ong: [search] 'optimizer.lr': the recipe's own value 0.1 must be one of the choices\n"


def test_a_search_whose_trials_all_stopped_writes_nothing(ong: Command, tmp_path: Path) -> None:
    recipe = RECIPE.replace("0.1", "1e30") + '[search]\n"optimizer.lr" = { low = 1e29, high = 1e31 }\n'
    (tmp_path / "wild.toml").write_text(recipe)
    code, out, err = ong("tune", "permuted-digits", "wild.toml", "--trials", "2", "--write", *QUICK)
    assert code == 1
    assert "stopped  optimizer.lr=1e+30\n  permuted-digits / wild / seed 1000: the loss is " in out
    assert err.startswith("ong: wild: every trial stopped, the last one so: permuted-digits / wild / seed 1000: ")
    assert (tmp_path / "wild.toml").read_text() == recipe


@pytest.mark.slow
def test_an_interrupted_command_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ong", "run", "permuted-mnist", "naive", "--jobs", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/*/.lock")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted; the same command resumes where it was (with --force it begins anew)"
    assert not list(tmp_path.glob("runs/*/*/*/.lock"))


def test_one_record_can_be_read_in_eighty_columns(ong: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ong("run", "permuted-digits", "ogd", *QUICK)[0] == 0
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = ong("show", "runs/permuted-digits/ogd/seed-0")
    assert code == 0
    assert "…" not in out.split("By task")[1].split("Recipe")[0]
    for name in ("leak", "bytes", "seconds"):
        assert name in out
