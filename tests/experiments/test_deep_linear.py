"""Runs of deep linear benchmarks: what their records say, and that a kill loses nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kills import KillAfter, Killed, timeless

from ong.experiments.deep_linear import run as run_module
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan

QUICK: dict[str, Any] = {
    "dims": [6, 8, 6],
    "train": 400,
    "test": 100,
    "epochs": 3,
    "batch_size": 100,
    "theory.steps": 60,
    "convergence_seeds": 0,
    "target": 3.3e-6,
}


def job(strategy: str, out: Path, benchmark: str = "deep-linear", **changes: Any) -> Job:
    (found,) = plan(benchmark, [strategy], [0], QUICK | changes, out=out)
    return found


def record_of(strategy: str, out: Path, **changes: Any) -> dict[str, Any]:
    outcome = perform(job(strategy, out, **changes))
    assert outcome.record is not None, outcome.failure
    return outcome.record


@pytest.mark.parametrize("strategy", ["ngd-paper", "ngd-min-norm", "ngd-any-width"])
def test_measured_rate_of_an_exact_form_agrees_with_theory_to_one_percent(strategy: str, tmp_path: Path) -> None:
    record = record_of(strategy, tmp_path)
    theory = record["history"]["theory"]
    assert theory["measured_rate"] == pytest.approx(0.95**2, rel=0.01)
    assert theory["residual"] < 1e-11
    assert record["diagnostics"]["exactness"]["exact"]
    assert record["metrics"]["epochs_to_target"] <= 3


def test_a_bottleneck_makes_the_papers_form_inexact_and_the_record_says_why(tmp_path: Path) -> None:
    paper = record_of("ngd-paper", tmp_path, dims=[6, 2, 6])["diagnostics"]["exactness"]
    assert not paper["exact"]
    assert "hidden layer 1 has 2 units" in paper["reason"]
    assert paper["residual"] > 0.01
    assert record_of("ngd-any-width", tmp_path, dims=[6, 2, 6])["diagnostics"]["exactness"]["residual"] < 1e-10


def test_the_loss_of_square_nets_rises_at_the_step_that_theory_names(tmp_path: Path) -> None:
    changes = {"dims": [4, 4, 4], "theory.alpha": 0.01, "theory.steps": 150}
    theory = record_of("ngd-paper", tmp_path, **changes)["history"]["theory"]
    assert theory["blow_up_step"] == pytest.approx(theory["first_rise"], rel=0.1)  # α is small, not infinitesimal
    assert theory["measured_rate"] == pytest.approx(0.99**2, rel=0.01)  # and until half-way the slope is theory's
    predicted = theory["excess"][0] * 0.99 ** (2 * 150)
    assert theory["excess"][-1] > 2 * predicted
    # the minimum-norm form gets past the singular W with no more than a bump
    assert record_of("ngd-min-norm", tmp_path, **changes)["history"]["theory"]["excess"][-1] < 1.2 * predicted


def test_one_more_hidden_unit_mends_the_papers_form(tmp_path: Path) -> None:
    rows = record_of("ngd-paper", tmp_path, convergence_seeds=3)["diagnostics"]["convergence"]
    shares = {tuple(row["dims"]): row["converged"] for row in rows}
    assert shares[1, 2, 1] == shares[4, 5, 4] == 3
    square = next(row for row in rows if row["dims"] == [4, 4, 4])
    assert square["converged"] == square["predicted"] < 3


def test_a_singular_input_covariance_is_handled(tmp_path: Path) -> None:
    record = record_of("ngd-any-width", tmp_path, input_rank=3)
    assert record["diagnostics"]["input_rank"] == 3
    assert record["metrics"]["test_loss"] < 1.2 * record["diagnostics"]["floor"]


def test_the_best_rate_of_a_grid_is_reported_and_a_diverging_one_only_noted(tmp_path: Path) -> None:
    record = record_of("sgd", tmp_path, rates=[0.001, 0.01, 50.0])
    grid = {entry["rate"]: entry for entry in record["diagnostics"]["grid"]}
    assert record["diagnostics"]["rate"] == 0.01
    assert grid[0.01]["least_test_loss"] < grid[0.001]["least_test_loss"]
    assert "diverged" in grid[50.0]["stopped"]


def test_a_run_that_diverges_at_every_rate_names_epoch_and_step_and_keeps_what_it_has(tmp_path: Path) -> None:
    wild = job("sgd", tmp_path, rates=[0.001, 0.002], **{"damping": 0.0}, batch_size=1, noise=1e30)
    outcome = perform(wild)
    assert outcome.failure is not None
    failure = json.loads((wild.folder.path / "failure.json").read_text())
    assert failure["epoch"] == 1
    assert failure["step"] >= 1
    assert "sgd" in failure["message"]
    assert (wild.folder.path / "checkpoint.pt").exists()


def test_a_killed_run_ends_with_the_same_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0.0)
    for strategy, kills in (("sgd", (2, 2)), ("ngd-paper", (1,))):
        whole = perform(job(strategy, tmp_path / "whole"))
        killed = job(strategy, tmp_path / "killed")
        for epochs in kills:
            with pytest.raises(Killed):
                perform(killed, KillAfter(epochs))
            assert killed.folder.record() is None
        resumed = perform(killed)
        assert timeless(resumed.record) == timeless(whole.record)
        assert not (killed.folder.path / "checkpoint.pt").exists()


def test_repeated_runs_are_identical_and_seeds_differ(tmp_path: Path) -> None:
    one, two = (timeless(record_of("ngd-any-width", tmp_path / name)) for name in ("one", "two"))
    assert one == two
    (other,) = plan("deep-linear", ["ngd-any-width"], [1], QUICK, out=tmp_path)
    assert timeless(perform(other).record)["history"] != one["history"]


def test_all_strategies_start_from_the_same_loss(tmp_path: Path) -> None:
    first = {record_of(name, tmp_path)["history"]["test_loss"][0] for name in ("sgd", "newton", "ngd-paper")}
    assert len(first) == 1
