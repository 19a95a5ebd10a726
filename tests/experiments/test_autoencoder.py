"""Runs of autoencoder benchmarks."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from kills import KillAfter, Killed, timeless

from ong.errors import UserError
from ong.experiments.autoencoder.run import AutoencoderRun
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Silent
from ong.natural.autoencoder import EpochRecord, Trainer
from ong.report.images import unpack
from ong.report.records import HistoryRecord, read_record
from ong.streams import load_dataset

QUICK: dict[str, Any] = {"dataset": "digits", "net": [64, 16, 4, 16, 64], "training.epochs": 3}


def job(strategy: str, out: Path, **changes: Any) -> Job:
    (found,) = plan("mnist-autoencoder", [strategy], [0], QUICK | changes, out=out)
    return found


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_a_record_holds_what_the_net_s_last_state_does_to_the_data(likelihood: str, tmp_path: Path) -> None:
    found = job("ngd", tmp_path, likelihood=likelihood, batch_size=250)
    run = found.run()
    assert isinstance(run, AutoencoderRun)
    found.folder.prepare()
    record = run.run(found.folder, Silent())
    history, metrics = record["history"], record["metrics"]
    assert history["epoch"] == [0, 1, 2, 3]
    assert history["damping"][0] == 1.0 != history["damping"][-1]
    for part, rows in (("train", run.data.train), ("test", run.data.test)):
        loss, error = run.data.errors(run.trainer.model, rows)
        assert metrics[f"{part}_loss"] == history[f"{part}_loss"][-1] == loss
        assert metrics[f"{part}_error"] == history[f"{part}_error"][-1] == error
    assert metrics["test_loss"] < record["diagnostics"]["mean_image_loss"] < history["test_loss"][0]
    originals, made = unpack(record["diagnostics"]["reconstructions"])
    with torch.no_grad():
        expected = run.data.images(run.trainer.model(run.data.test[:10]))
    np.testing.assert_allclose(made, expected.numpy(), atol=1 / 500)  # a byte a pixel
    pixels = load_dataset("digits").test_images[:10].numpy()
    np.testing.assert_array_equal(np.rint(255 * originals), pixels)


def test_timing_is_apart_and_by_epoch(tmp_path: Path) -> None:
    once = job("adam", tmp_path)
    perform(once)
    record = read_record(once.folder.path)
    assert isinstance(record, HistoryRecord)
    assert not [key for key in (*record.history, *record.metrics, *record.diagnostics) if "second" in key]
    timing = record.timing
    assert len(timing.train_seconds) == len(timing.cpu_seconds) == 3
    assert len(timing.evaluate_seconds) == 4
    assert all(second is not None and second > 0 for second in (*timing.train_seconds, *timing.cpu_seconds))
    parts = [second or 0.0 for second in (*timing.train_seconds, *timing.evaluate_seconds)]
    assert timing.total_seconds == pytest.approx(sum(parts))


@pytest.mark.parametrize("strategy", ["adam", "ngd-fast"])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_killed_run_ends_with_the_same_record_and_repeats_are_identical(
    strategy: str, epochs: int, tmp_path: Path
) -> None:
    whole = perform(job(strategy, tmp_path / "whole"))
    killed = job(strategy, tmp_path / "killed")
    with pytest.raises(Killed):
        perform(killed, KillAfter(epochs))
    assert len(torch.load(killed.folder.path / "checkpoint.pt")["trainer"]["history"]) == epochs
    assert timeless(perform(killed).record) == timeless(whole.record)
    assert not (killed.folder.path / "checkpoint.pt").exists()


def test_strategies_of_a_seed_share_their_start_and_seeds_differ(tmp_path: Path) -> None:
    starts = {
        (name, seed): timeless(perform(found).record)["history"]["test_loss"][0]
        for name in ("sgd", "ngd")
        for found in plan("mnist-autoencoder", [name], [0, 1], QUICK | {"training.epochs": 0}, out=tmp_path)
        for seed in [found.seed]
    }
    assert starts["sgd", 0] == starts["ngd", 0] != starts["ngd", 1] == starts["sgd", 1]


@pytest.mark.parametrize("strategy", ["sgd", "ngd"])
def test_a_nan_stops_the_run_at_its_epoch_and_step_and_keeps_the_epochs_before(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = Trainer.epochs

    def poisoned(self: Trainer, count: int) -> Iterator[EpochRecord]:
        for record in train(self, count):
            yield record
            if record.epoch == 1:
                with torch.no_grad():
                    next(self.model.parameters())[0, 0] = float("nan")

    monkeypatch.setattr(Trainer, "epochs", poisoned)
    found = job(strategy, tmp_path, batch_size=500)
    outcome = perform(found)
    assert outcome.failure is not None
    assert f"mnist-autoencoder-digits / {strategy} / seed 0: the loss is nan" in outcome.failure
    assert "1 finished epochs are kept" in outcome.failure
    failure = json.loads((found.folder.path / "failure.json").read_text())
    assert (failure["epoch"], failure["step"]) == (2, 3)  # three steps an epoch, counted from 0 over the run
    assert len(torch.load(found.folder.path / "checkpoint.pt")["trainer"]["history"]) == 2
    assert not (found.folder.path / "record.json").exists()


def test_a_diverging_run_is_a_failure_that_says_what_to_change(tmp_path: Path) -> None:
    wild = job("sgd", tmp_path, **{"optimizer.lr": 1e4})
    outcome = perform(wild)
    assert outcome.failure is not None
    assert "lower lr" in outcome.failure
    assert json.loads((wild.folder.path / "failure.json").read_text())["epoch"] == 1


def test_without_its_package_soap_is_left_out_or_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    said: list[str] = []
    jobs = plan("mnist-autoencoder", None, [0], QUICK, out=tmp_path, tell=said.append)
    assert {job.strategy.name for job in jobs} == {"sgd", "sgd-momentum", "adam", "ngd", "ngd-ekfac", "ngd-fast"}
    assert [line.partition(":")[0] for line in said] == ["soap is left out"]
    with pytest.raises(UserError, match="'soap' cannot run .* install it: pip install pytorch-optimizer"):
        job("soap", tmp_path)


def test_soap_learns_where_its_package_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pytorch_optimizer")
    history = timeless(perform(job("soap", tmp_path, batch_size=50)).record)["history"]
    assert history["test_loss"][-1] < 0.9 * history["test_loss"][0]
    assert history["damping"] == [None] * 4


def test_any_torch_optimizer_may_be_a_strategy(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        'summary = "s"\nsource = "s"\nbatch_size = 50\n[optimizer]\nuse = "torch.optim:RMSprop"\nlr = 0.003\n'
    )
    history = timeless(perform(job(str(recipe), tmp_path)).record)["history"]
    assert history["test_loss"][-1] < 0.9 * history["test_loss"][0]
