"""Certificates in Avalanche strategies, and in the records of runs."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from harness import PLUGINS, learner, tasks, train, weights
from nets import mlp

from ong import methods
from ong.experiments.jobs import perform
from ong.experiments.plan import plan
from ong.methods.certificate import CERTIFIED
from ong.plugins import OGD, Certificate
from ong.plugins.boundaries import ExperienceRows

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*of the space is left")


@pytest.mark.parametrize("name", [None, *PLUGINS])
def test_every_method_is_certified_alike_and_not_changed(name: str | None) -> None:
    found, stream = [], tasks(3)
    for looking in (False, True):
        certificate = Certificate(examples=8, test_stream=stream.test_stream)
        method = [PLUGINS[name]()] if name else []
        model = mlp(6, 12, 3)
        train(learner(model, *([certificate] if looking else []), *method), stream.train_stream)
        found.append(weights(model))
    assert torch.equal(*found)
    assert {len(values) for values in certificate.measures.values()} == {3}
    assert [values[0] for values in certificate.measures.values()] == [None] * len(CERTIFIED)
    for key in ("exact", "first_order", "nonlinear", "measured", "measured_test", "stored_measured"):
        assert all(value is not None and value > 0 for value in certificate.measures[f"certificate_{key}"][1:])
    promises = {"ong-prior": ("promised", "distance"), "ncl": ("promised", "distance"), "ogd": ("distance",)}
    for key in promises.get(name or "", ()):
        assert certificate.measures[f"certificate_{key}"][2] is not None


def test_it_is_the_certificate_of_a_plain_loop() -> None:
    stream = tasks(3)
    certificate, plain = Certificate(examples=8, test_stream=stream.test_stream), methods.Certificate(examples=8)
    model, twin = mlp(6, 12, 3), mlp(6, 12, 3)
    strategy = learner(model, certificate, OGD(directions_per_task=8))
    for task, (experience, test) in enumerate(zip(stream.train_stream, stream.test_stream, strict=True)):
        plain.begin_task(twin)
        train(strategy, [experience])
        twin.load_state_dict(model.state_dict())
        parts = [ExperienceRows(part).take(torch.arange(24))[:2] for part in (experience, test)]
        expected = plain.end_task(twin, parts[0], test=parts[1])
        for key in ("exact", "measured", "measured_test", "stored", "distance_measured"):
            assert certificate.measures[f"certificate_{key}"][task] == expected[key]


def test_pieces_of_an_online_task_are_one_task() -> None:
    certificate = Certificate(examples=8)
    strategy = learner(mlp(6, 12, 3), certificate)
    pieces = list(split_online_stream(tasks(2).train_stream, 8, access_task_boundaries=True, seed=0))
    for piece in pieces[:4]:  # of the second task the first
        strategy.train(piece, eval_streams=[])
    state = copy.deepcopy(certificate.state_dict())
    assert len(certificate.measures["certificate_measured"]) == 1
    resumed = Certificate(examples=8)
    resumed.load_state_dict(state)
    strategy.plugins.append(resumed)
    for piece in pieces[4:]:
        strategy.train(piece, eval_streams=[])
    assert certificate.measures["certificate_measured"][1] is not None
    assert resumed.measures == certificate.measures


@pytest.mark.parametrize("strategy", ["ong-prior", "joint"])
def test_a_run_has_them_in_its_record(strategy: str, tmp_path: Path) -> None:
    (job,) = plan("permuted-digits", [strategy], [0], {"training.epochs": 1}, out=tmp_path)
    perform(job)
    written: dict[str, Any] = json.loads((job.folder.path / "record.json").read_text())["diagnostics"]
    for name in CERTIFIED:
        values = written[f"certificate_{name}"]
        assert len(values) == 3
        assert values[0] is None
        assert all(value is None or value >= 0 for value in values)
    assert (written["certificate_measured_test"][2] is None) == (strategy == "joint")
    assert (written["certificate_promised"][2] is None) == (strategy == "joint")


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_heads_a_task_and_classes_that_come_are_certified(scenario: str, tmp_path: Path) -> None:
    changes = {"training.epochs": 1, "stream.scenario": scenario}
    (job,) = plan("split-mnist", ["ong-prior"], [0], changes, "digits", out=tmp_path)
    record = perform(job).record
    assert record is not None
    found = record["diagnostics"]
    for key in ("promised", "exact", "measured", "measured_test", "distance", "stored"):
        assert all(value is not None for value in found[f"certificate_{key}"][1:])
