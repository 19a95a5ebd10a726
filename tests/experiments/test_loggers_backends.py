"""What the four trackers hold of a run that was interrupted and resumed; no network, no training."""

from __future__ import annotations

import csv
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kills import wait_until

from ong.errors import UserError
from ong.experiments.loggers import Logger, RunInfo
from ong.experiments.loggers.csv_file import CSVLogger
from ong.experiments.loggers.mlflow import MLflowLogger
from ong.experiments.loggers.tensorboard import TensorBoardLogger
from ong.experiments.loggers.wandb import WandbLogger

SETTINGS = {
    "benchmark": {"name": "bench", "training": {"epochs": 2, "online": None}},
    "strategy": {"name": "mine", "plugins": [{"use": "a:B", "damping": 0.5}], "optimizer": {"lr": 0.1}},
    "seed": 3,
}
FINAL = {"ACC": 0.75}


@pytest.fixture
def info(tmp_path: Path) -> RunInfo:
    folder = tmp_path / "bench/mine/seed-3"
    folder.mkdir(parents=True)
    return RunInfo(SETTINGS, folder, tmp_path, "0123456789abcdef", -1)


def log(logger: Logger, info: RunInfo, last: int, steps: range, metrics: Mapping[str, float] | None) -> None:
    """Log losses at some steps of a run, after those that a logger lacks of those up to ``last``."""
    held = logger.start(RunInfo(info.settings, info.folder, info.out, info.id, last))
    for step in (*range(held + 1, last + 1), *steps):
        logger.log(step, {"loss": 1 / (1 + step), "ACC": 0.5})
    logger.finish(metrics)


def test_settings_are_told_by_dotted_keys_and_those_that_are_not_set_are_left_out(info: RunInfo) -> None:
    assert info.label == "bench/mine/seed-3"
    assert info.parameters == {
        "benchmark.name": "bench",
        "benchmark.training.epochs": 2,
        "strategy.name": "mine",
        "strategy.plugins.0.use": "a:B",
        "strategy.plugins.0.damping": 0.5,
        "strategy.optimizer.lr": 0.1,
        "seed": 3,
    }


def test_a_csv_file_has_each_step_once_though_it_was_torn(info: RunInfo) -> None:
    path = info.folder / "log.csv"
    path.write_text("of a run before\n")
    log(CSVLogger(), info, -1, range(3), None)
    with path.open("a") as file:
        file.write("3,loss,0.25\r\n3,AC")  # killed in the middle of a line
    log(CSVLogger(), info, 3, range(4, 5), FINAL)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "name", "value"]
    expected = [
        [str(step), name, value]
        for step in range(5)
        for name, value in (("loss", repr(1 / (1 + step))), ("ACC", "0.5"))
    ]
    assert rows == expected


def test_tensorboard_shows_each_step_once_and_final_metrics(info: RunInfo) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = info.folder / "tensorboard"
    folder.mkdir()
    (folder / "events.out.tfevents.1.of-a-run-before").write_bytes(b"")
    log(TensorBoardLogger(), info, -1, range(4), None)
    log(TensorBoardLogger(), info, 3, range(4, 6), FINAL)
    assert not (folder / "events.out.tfevents.1.of-a-run-before").exists()
    shown = accumulator.EventAccumulator(str(folder)).Reload()
    assert [(e.step, e.value) for e in shown.Scalars("loss")] == [(s, pytest.approx(1 / (1 + s))) for s in range(6)]
    assert [e.value for e in shown.Scalars("final/ACC")] == [0.75]
    parameters = shown.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"strategy.optimizer.lr" in parameters


def records(path: Path) -> Iterator[Any]:
    """Read what wandb has written for later: records in blocks of 32 kB, as LevelDB's logs."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        whole, place = whole + data[place + 7 : place + 7 + size], place + 7 + size
        if kind in (1, 4):  # a whole record, the last part of one
            yield Record.FromString(whole)
            whole = b""


def test_wandb_offline_has_one_folder_a_run_with_each_step_once(info: RunInfo) -> None:
    pytest.importorskip("wandb")
    log(WandbLogger(project="p", mode="offline"), info, -1, range(3), None)
    log(WandbLogger(project="p", mode="offline"), info, 2, range(3, 5), FINAL)
    (path,) = info.out.glob("wandb/offline-run-*/*.wandb")
    wait_until(lambda: any(record.HasField("exit") for record in records(path)), 60)
    found = list(records(path))
    (run,) = [record.run for record in found if record.HasField("run")]
    assert (run.run_id, run.project, run.display_name, run.run_group) == (
        "0123456789abcdef", "p", "bench/mine/seed-3", "bench/mine",
    )  # fmt: skip
    assert [record.history.step.num for record in found if record.HasField("history")] == list(range(5))
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [0]
    summary = {item.key: item.value_json for record in found for item in record.summary.update}
    assert summary["final/ACC"] == "0.75"


def test_wandb_without_an_account_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match="no account here; run 'wandb login', or set WANDB_MODE=offline"):
        WandbLogger(mode="online")


def test_mlflow_goes_on_with_the_run_of_the_same_id(info: RunInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    client = MlflowClient(f"sqlite:///{info.out / 'mlflow.db'}")

    def runs() -> list[Any]:
        experiment = client.get_experiment_by_name("bench")
        return list(client.search_runs([experiment.experiment_id]))

    log(MLflowLogger(), info, -1, range(3), None)
    assert [run.info.status for run in runs()] == ["FAILED"]
    log(MLflowLogger(), info, 3, range(4, 5), FINAL)  # step 3 was noted, but not logged
    (run,) = runs()
    assert (run.info.status, run.info.run_name) == ("FINISHED", "bench/mine/seed-3")
    assert run.data.params["strategy.optimizer.lr"] == "0.1"
    assert run.data.metrics["final/ACC"] == 0.75
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, 1 / (1 + step)) for step in range(5)]
