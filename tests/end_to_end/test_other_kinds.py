"""Benchmarks that are no sequence of tasks, as a user meets them on the command line."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ong.cli import main

Result = tuple[int, str, str]
Command = Callable[..., Result]
LINEAR = tuple(
    part
    for setting in (
        "dims=[4,6,4]", "train=200", "test=50", "epochs=2", "batch_size=50", "theory.steps=20", "convergence_seeds=1",
    )
    for part in ("--set", setting)
)  # fmt: skip
FEW = ("--set", "theory.steps=20", "--set", "convergence_seeds=0")
FISHER = tuple(
    part
    for setting in (
        "training.epochs=1", "measure.inputs=6", "measure.repeats=100", "measure.ekfac_repeats=1",
        "measure.relative_errors=[0.5]",
    )
    for part in ("--set", setting)
)  # fmt: skip

AUTO = (
    "--dataset", "digits", "--jobs", "1", "--set", "net=[64,16,4,16,64]", "--set", "training.epochs=2",
    "--set", "batch_size=200",
)  # fmt: skip


@pytest.fixture
def ong(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run the command line in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "150")

    def run(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        captured = capsys.readouterr()
        return int(exit_.value.code or 0), captured.out, captured.err

    return run


def test_list_groups_recipes_by_kind(ong: Command) -> None:
    code, out, _ = ong("list")
    assert code == 0
    for kind in ("continual", "autoencoder", "deep-linear", "fisher"):
        assert f"{kind}: benchmarks" in out
        assert f"{kind}: strategies" in out
    of_kind = out.partition("deep-linear: strategies")[2].partition("fisher: benchmarks")[0]
    assert {"sgd", "ngd-paper", "ngd-min-norm", "ngd-any-width", "newton"} <= set(of_kind.split())


def test_deep_linear_from_run_to_report(ong: Command, tmp_path: Path) -> None:
    code, out, err = ong("run", "deep-linear", *LINEAR, "--jobs", "1")
    assert code == 0
    assert all(": done (" in line for line in err.splitlines())
    for name in ("sgd", "ngd-paper", "ngd-min-norm", "ngd-any-width", "newton"):
        assert name in out
        record = json.loads((tmp_path / f"runs/deep-linear/{name}/seed-0/record.json").read_text())
        assert set(record) == {
            "schema", "benchmark", "strategy", "seed", "history", "metrics", "diagnostics", "timing",
        }  # fmt: skip
        assert record["history"]["epoch"] == [0, 1, 2]
    assert "5 of 5 runs were finished before" in ong("run", "deep-linear", *LINEAR, "--jobs", "1")[1]
    code, out, _ = ong("show", "runs/deep-linear/ngd-paper/seed-0")
    assert code == 0
    assert "excess" in out
    check_report(ong, tmp_path, {"training", "theory"})
    text = (tmp_path / "runs/report.md").read_text()
    for fact in ("Where the paper's flow fails", "1-2-1", "(1 − α)²", "0.9025", "least squares|has at least max"):
        assert re.search(re.escape(fact).replace(r"\|", "|"), text), fact


def test_fisher_variance_from_run_to_report(ong: Command, tmp_path: Path) -> None:
    code, out, err = ong("run", "fisher-variance-digits", "tanh", "relu", *FISHER, "--jobs", "1")
    assert code == 0
    assert all(": done (" in line for line in err.splitlines())
    assert "tanh" in out
    record = json.loads((tmp_path / "runs/fisher-variance-digits/relu/seed-0/record.json").read_text())
    assert record["history"]["epoch"] == [0, 1]
    assert ong("show", "runs/fisher-variance-digits/relu/seed-0")[0] == 0
    check_report(ong, tmp_path, {"agreement", "training-tanh", "training-relu"})
    text = (tmp_path / "runs/report.md").read_text()
    for fact in ("Which estimator wins where", "How many draws", "EKFAC to a wanted error", "Bounds"):
        assert fact in text


def test_autoencoder_from_run_to_report(ong: Command, tmp_path: Path) -> None:
    code, out, err = ong("run", "mnist-autoencoder", "sgd", "ngd", *AUTO, "--set", "likelihood=bernoulli")
    assert code == 0
    assert all(": done (" in line for line in err.splitlines())
    assert re.search(r"ngd +1 ", out)
    record = json.loads((tmp_path / "runs/mnist-autoencoder-digits/ngd/seed-0/record.json").read_text())
    assert record["history"]["epoch"] == [0, 1, 2]
    code, out, _ = ong("show", "runs/mnist-autoencoder-digits/ngd/seed-0")
    assert code == 0
    assert "damping" in out
    check_report(ong, tmp_path, {"loss-epochs", "loss-seconds", "reconstructions", "damping"})
    text = (tmp_path / "runs/report.md").read_text()
    for fact in (
        "To the loss of sgd",
        "| Train error |",
        "figures/reconstructions.png",
        "α/20 with α of .04, .06 and .08",
    ):
        assert fact in text, fact


def test_a_report_of_nets_that_never_trained_is_written(ong: Command, tmp_path: Path) -> None:
    assert ong("run", "mnist-autoencoder", "sgd", "ngd", *AUTO, "--set", "training.epochs=0")[0] == 0
    check_report(ong, tmp_path, {"loss-epochs", "reconstructions", "damping"})
    assert "Not learning yet" in (tmp_path / "runs/report.md").read_text()


def test_tuning_an_autoencoder_lowers_the_training_loss(ong: Command, tmp_path: Path) -> None:
    recipe = 'summary = "s"\nsource = "s"\nbatch_size = 200\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 1e9\n'
    (tmp_path / "mine.toml").write_text(
        recipe + '[search]\n"optimizer.lr" = { choices = [1e9, 0.01] }\n"batch_size" = { choices = [200] }\n'
    )
    code, out, _ = ong("tune", "mnist-autoencoder", "mine.toml", "--trials", "4", "--write", *AUTO[:-2])
    assert code == 0
    assert '"batch_size" = 200\n' in out
    assert "stopped  optimizer.lr=1e+09" in out
    assert '"optimizer.lr" = 0.01' in (tmp_path / "mine.toml").read_text().split("[on.mnist-autoencoder-digits]")[1]


def check_report(ong: Command, folder: Path, figures: set[str]) -> None:
    """Every format is written; the page refers to nothing outside; tables are rectangular."""
    code, out, _ = ong("report", "runs")
    assert code == 0
    files = {Path(line): (folder / line).read_bytes() for line in out.split()}
    assert {path.suffix for path in files} == {".md", ".csv", ".tex", ".html", ".png", ".svg"}
    assert {path.stem for path in files if path.suffix == ".png"} == figures
    page = (folder / "runs/report.html").read_text()
    addresses = re.findall(r'(?:src|href|srcset)="([^"]*)"', page)
    assert all(address.startswith(("#", "data:")) for address in addresses)
    assert all(f'id="{address[1:]}"' in page for address in addresses if address.startswith("#"))
    tex = (folder / "runs/report.tex").read_text()
    assert tex.count("{") == tex.count("}")
    assert "?" not in tex
    for block in (folder / "runs/report.md").read_text().split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_kinds_share_a_report(ong: Command, tmp_path: Path) -> None:
    ong("run", "deep-linear", "ngd-paper", *LINEAR, "--jobs", "1")
    quick = ("--set", "training.epochs=1", "--set", "stream.tasks=2", "--jobs", "1")
    ong("run", "permuted-digits", "naive", *quick)
    texts = []
    for _ in range(2):
        assert ong("report", "runs", "--format", "md,csv,tex,html")[0] == 0
        texts.append([(tmp_path / f"runs/report.{form}").read_bytes() for form in ("md", "csv", "tex", "html")])
    assert texts[0] == texts[1]
    page = (tmp_path / "runs/report.html").read_text()
    assert "Accuracy matrices" in page
    assert "Against theory" in page
    rows = (tmp_path / "runs/report.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {"deep-linear", "permuted-digits"}


def test_parallel_runs_give_the_records_of_sequential_ones(ong: Command, tmp_path: Path) -> None:
    for jobs in ("1", "2"):
        code = ong("run", "deep-linear", "sgd", "ngd-paper", *LINEAR, "--jobs", jobs, "--out", f"out{jobs}")[0]
        assert code == 0
    for name in ("sgd", "ngd-paper"):
        one, two = (
            json.loads((tmp_path / f"out{jobs}/deep-linear/{name}/seed-0/record.json").read_text()) for jobs in (1, 2)
        )
        assert {k: v for k, v in one.items() if k != "timing"} == {k: v for k, v in two.items() if k != "timing"}


def test_a_diverging_run_is_named_and_the_others_go_on(ong: Command, tmp_path: Path) -> None:
    recipe = 'summary = "s"\nsource = "s"\nstep = "sgd"\nrates = [1e9]\nepochs = 2\nbatch_size = 50\n'
    (tmp_path / "wild.toml").write_text(recipe)
    sizes = tuple(part for setting in ("dims=[4,6,4]", "train=2000", "test=50") for part in ("--set", setting))
    code, out, err = ong("run", "deep-linear", "wild.toml", "ngd-paper", *sizes, *FEW, "--jobs", "1")
    assert code == 1
    assert "wild / seed 0: sgd (alpha 1e+09) diverged" in err
    assert "ngd-paper" in out
    failure = json.loads((tmp_path / "runs/deep-linear/wild/seed-0/failure.json").read_text())
    assert failure["strategy"] == "wild"
    assert failure["epoch"] == 1
    assert failure["step"] >= 1
    assert ong("report", "runs", "--format", "md")[0] == 0
    assert "wild" in (tmp_path / "runs/report.md").read_text()


def linear(*settings: str) -> tuple[str, ...]:
    return ("run", "deep-linear", "ngd-paper", *(part for setting in settings for part in ("--set", setting)))


def fisher(*settings: str) -> tuple[str, ...]:
    return ("run", "fisher-variance-digits", "tanh", *(part for setting in settings for part in ("--set", setting)))


def auto(*settings: str) -> tuple[str, ...]:
    return ("run", "mnist-autoencoder", "ngd", *AUTO, *(part for setting in settings for part in ("--set", setting)))


WRONG: dict[str, tuple[tuple[str, ...], str]] = {
    "setting": (linear("setting=net4"), "unknown deep linear setting 'net4'; did you mean 'net"),
    "too few dims": (linear("dims=[4]"), "describe no layer; give at least"),
    "a width of 0": (linear("dims=[4,0,4]"), "not a positive whole number"),
    "no noise": (linear("noise=0"), "the output noise must be positive"),
    "too high a rank": (linear("dims=[4,4]", "input_rank=5"), "has a rank between 1 and 4"),
    "too low a rank": (linear("dims=[4,4]", "input_rank=0"), "has a rank between 1 and 4"),
    "no step": (linear("step=ngd-papr"), "did you mean 'ngd-paper'?"),
    "no rates": (linear("rates=[]"), "'rates'"),
    "a negative rate": (linear("rates=[-1.0]"), "'rates.0'"),
    "a batch beyond the data": (linear("dims=[4,4]", "train=10"), "batch_size = 1000, but there are 10 training examples"),
    "negative damping": (linear("damping=-1"), "'damping'"),
    "damping below its floor": (linear("dims=[4,4]", "damping_floor=1.0"), "0 < floor ≤ initial ≤ ceiling"),
    "a typo": (linear("convergence_seed=3"), "did you mean 'convergence_seeds'?"),
    "an inner typo": (linear("theory.step=3"), "did you mean 'theory.steps'?"),
    "too large a net": (("run", "deep-linear", "newton"), "the Hessian of 6400 weights is not formed"),
    "a data set": (("run", "deep-linear", "sgd", "--dataset", "digits"), "has no data set"),
    "another kind's strategy": (("run", "deep-linear", "naive"), "unknown deep-linear strategy 'naive'; known: newton"),
    "tuning": (("tune", "deep-linear", "sgd"), "ong tune searches for kinds continual, autoencoder"),
    "activation": (fisher("activation=tahn"), "unknown activation 'tahn'; did you mean 'tanh'?"),
    "family": (fisher("family=poisson"), "'family': Input should be 'categorical' or 'gaussian'"),
    "hidden width": (fisher("hidden=[0]"), "'hidden.0'"),
    "too few repeats": (fisher("measure.repeats=3"), "'measure.repeats'"),
    "too many inputs": (fisher("measure.inputs=99999"), "measure.inputs = 99999, but 'digits' has 1442 training images"),
    "relative error": (fisher("measure.relative_errors=[0.0]"), "'measure.relative_errors.0'"),
    "no such data": (("run", "fisher-variance", "tanh", "--dataset", "digit"), "did you mean 'digits'?"),
    "net": (auto("net=clasic"), "unknown autoencoder 'clasic'; did you mean 'classic'?"),
    "a net for other images": (auto("net=paper"), "has 784 inputs, but images of 'digits' have 64 pixels; give widths that fit, such as --set net=[64,400,"),
    "widths that are no autoencoder": (auto("net=[64,8,32]"), "as many outputs as inputs"),
    "a likelihood of classes": (auto("likelihood=categorical"), "'likelihood': Input should be 'gaussian' or 'bernoulli'"),
    "a batch beyond the images": (auto("batch_size=5000"), "between 1 and 1442 training examples; got 5000"),
    "a batch of none": (auto("batch_size=0"), "'batch_size'"),
    "negative epochs": (auto("training.epochs=-1"), "'training.epochs'"),
    "an optimizer's option": (auto("optimizer.momentun=0.5"), "unknown option of optimizer NaturalGradient 'momentun'; did you mean 'momentum'?"),
    "an optimizer's value": (auto("optimizer.lr=-1"), "lr must be a positive number"),
    "a damping of 0": (auto("optimizer.damping=0"), "damping must be a positive number"),
    "the likelihood in two places": (auto("optimizer.likelihood=bernoulli"), "optimizer.likelihood is the benchmark's"),
    "no optimizer": (auto("optimizer.use=torch.nn:Linear"), "is not a subclass of torch.optim"),
    "an autoencoder strategy's name": (("run", "mnist-autoencoder", "ngd-fst"), "did you mean 'ngd-fast'?"),
    "kind": (("run", "kind.toml"), "unknown kind of benchmark 'deep-liner'; did you mean 'deep-linear'?"),
    "no kind": (("run", "none.toml"), "'kind' is missing"),
    "no net": (("run", "empty.toml"), "give a setting (net1, net2, net3) or dims"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_in_one_line_that_says_what_is_right(case: str, ong: Command, tmp_path: Path) -> None:
    (tmp_path / "kind.toml").write_text('summary = "s"\nkind = "deep-liner"\n')
    (tmp_path / "none.toml").write_text('summary = "s"\n')
    (tmp_path / "empty.toml").write_text('summary = "s"\nkind = "deep-linear"\n')
    arguments, expected = WRONG[case]
    code, _, err = ong(*arguments)
    assert code == 2, err
    assert expected in err
    assert err.startswith("ong: ")
    assert err.count("\n") == 1
    assert not list(tmp_path.rglob("record.json"))
