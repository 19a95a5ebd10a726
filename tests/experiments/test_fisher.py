"""Runs of Fisher-variance benchmarks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kills import KillAfter, Killed, timeless

from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan

QUICK: dict[str, Any] = {
    "training.epochs": 1,
    "measure.inputs": 8,
    "measure.repeats": 300,
    "measure.ekfac_repeats": 2,
    "measure.relative_errors": [0.5],
}


def job(strategy: str, out: Path, **changes: Any) -> Job:
    (found,) = plan("fisher-variance-digits", [strategy], [0], QUICK | changes, out=out)
    return found


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "relu"])
def test_measured_errors_agree_with_the_closed_forms_layer_by_layer(activation: str, tmp_path: Path) -> None:
    record = timeless(perform(job(activation, tmp_path)).record)
    for layer in (layer for rows in record["history"]["layers"].values() for layer in rows):
        for name, measured in layer["measured"].items():
            gap = abs(measured - layer["predicted"][name])
            # 30 comparisons a run; standard errors are rough where rare labels carry the variance, so 5 of them
            assert gap <= 5 * layer["standard_error"][name] + 1e-9, (name, layer)
        assert layer["predicted"]["mc"] <= layer["bound"]["mc"] * (1 + 1e-9)
        assert layer["predicted"]["hessian"] <= layer["bound"]["hessian"] * (1 + 1e-9)
        assert layer["predicted"]["mixture"] <= min(layer["predicted"]["mc"], layer["predicted"]["hessian"]) + 1e-9
    assert record["metrics"]["within_two_errors"] > 0.8


def test_the_hessian_estimator_of_a_relu_net_and_of_any_last_layer_has_no_variance(tmp_path: Path) -> None:
    layers = timeless(perform(job("relu", tmp_path)).record)["history"]["layers"]
    assert all(row["predicted"]["hessian"] < 1e-9 for rows in layers.values() for row in rows)
    smooth = timeless(perform(job("tanh", tmp_path)).record)["history"]["layers"]
    *hidden, last = smooth
    assert all(row["predicted"]["hessian"] < 1e-9 for row in smooth[last])
    assert all(row["predicted"]["hessian"] > 0.1 for name in hidden for row in smooth[name])


def test_a_killed_run_ends_with_the_same_record_and_repeats_are_identical(tmp_path: Path) -> None:
    whole = perform(job("softplus", tmp_path / "whole"))
    killed = job("softplus", tmp_path / "killed")
    with pytest.raises(Killed):
        perform(killed, KillAfter(1))
    assert (killed.folder.path / "checkpoint.pt").exists()
    assert timeless(perform(killed).record) == timeless(whole.record)


def test_a_diverging_run_names_epoch_and_step_and_keeps_the_measurement_before(tmp_path: Path) -> None:
    wild = job("relu", tmp_path, lr=1e38)
    outcome = perform(wild)
    assert outcome.failure is not None
    assert "fisher-variance-digits / relu / seed 0: the loss is" in outcome.failure
    failure = json.loads((wild.folder.path / "failure.json").read_text())
    assert failure["epoch"] == 1
    assert failure["step"] > 1
    assert (wild.folder.path / "checkpoint.pt").exists()


def test_a_gaussian_likelihood_has_the_variance_that_needs_no_net(tmp_path: Path) -> None:
    record = timeless(perform(job("tanh", tmp_path, family="gaussian")).record)
    for rows in record["history"]["layers"].values():
        for row in rows:
            assert row["predicted"]["mc"] == pytest.approx(row["predicted"]["gaussian"])  # V₁ = 2F² for every net
    assert record["diagnostics"]["ekfac"] == []
