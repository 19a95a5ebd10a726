"""Published records run again: what is compared, and what passes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ong.errors import UserError
from ong.experiments.arguments import find_records
from ong.experiments.jobs import perform
from ong.experiments.plan import plan
from ong.experiments.verify import difference, other_machine, verify

SETTINGS = {"training.epochs": 1, "stream.tasks": 2}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    (job,) = plan("permuted-digits", ["ogd"], [4], SETTINGS, out=tmp_path)
    assert perform(job).failure is None
    return job.folder.path / "record.json"


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def shifted(by: float) -> Callable[[dict[str, Any]], None]:
    """Raise a record's ACC, and the last accuracy behind it."""

    def change(values: dict[str, Any]) -> None:
        values["metrics"]["ACC"] += by
        values["accuracy_matrix"][-1][-1] += by

    return change


def test_a_record_is_the_same_to_the_bit_whatever_it_took(record: Path) -> None:
    changed(record, lambda values: values["timing"].update(total_seconds=1e6))
    changed(record, lambda values: values["strategy"].update(summary="in other words"))
    changed(record, lambda values: values.update(schema=1))  # the form of today's records before the number was raised
    before = record.read_bytes()
    (verdict,) = verify([record])
    assert (verdict.benchmark, verdict.strategy, verdict.seed) == ("permuted-digits", "ogd", 4)
    assert (verdict.other, verdict.same, verdict.difference, verdict.passes) == ("", True, 0.0, True)
    assert record.read_bytes() == before


def test_on_the_same_kind_of_machine_the_last_bit_counts(record: Path) -> None:
    def raise_a_bit(values: dict[str, Any]) -> None:
        values["diagnostics"]["descent_cosine"][1] = math.nextafter(values["diagnostics"]["descent_cosine"][1], 2)

    changed(record, raise_a_bit)
    (verdict,) = verify([record], tolerance=1.0)
    assert (verdict.other, verdict.same, verdict.difference, verdict.passes) == ("", False, 0.0, False)


@pytest.mark.parametrize(("shift", "passes"), [(0.0, True), (-0.008, True), (0.012, False)])
def test_on_another_kind_of_machine_accuracy_may_differ_by_the_tolerance(
    record: Path, shift: float, passes: bool
) -> None:
    changed(record, shifted(shift))
    changed(record.with_name("environment.json"), lambda values: values.update(cpu_capability="VSX"))
    (verdict,) = verify([record])
    assert verdict.other == f"cpu_capability VSX → {torch.backends.cpu.get_cpu_capability()}"
    assert verdict.difference == pytest.approx(abs(shift), abs=1e-12)
    assert (verdict.same, verdict.passes) == (shift == 0, passes)


def test_versions_threads_and_processors_tell_kinds_of_machines_and_names_and_kernels_do_not() -> None:
    here = {"processor": "A", "cpu_capability": "AVX2", "threads": 1, "device": "cpu", "packages": {"torch": "2.1"}}
    assert other_machine(here | {"platform": "Linux-6", "commit": "ab", "cores": 4}, here) == ""
    assert other_machine(here | {"packages": {"torch": "2.0"}}, here) == "torch 2.0 → 2.1"
    assert other_machine(here | {"processor": "B", "threads": 2}, here) == "processor B → A, threads 2 → 1"
    assert other_machine({}, here).startswith("processor not told → A, cpu_capability not told → AVX2")


def test_records_without_accuracies_differ_by_the_largest_share_of_a_metric() -> None:
    published, again = ({"metrics": {"loss": loss, "error": 3.0, "gap": None}} for loss in (50.0, 49.5))
    assert difference(published, again) == pytest.approx(0.01)
    assert difference(published, published) == 0
    assert difference(published, {"metrics": {"loss": None, "error": 3.0, "gap": None}}) == math.inf


def test_a_run_that_stops_fails(record: Path) -> None:
    changed(record, lambda values: values["strategy"]["optimizer"].update(lr=1e30))
    (verdict,) = verify([record])
    assert not verdict.passes
    assert "lower optimizer.lr" in (verdict.failure or "")


def test_folders_mean_the_records_in_them(record: Path, tmp_path: Path) -> None:
    assert find_records([tmp_path, record]) == [record]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no record.json"):
        find_records([tmp_path / "empty"])


def test_settings_that_this_version_does_not_know_are_told(record: Path) -> None:
    changed(record, lambda values: values["benchmark"].update(colour="blue"))
    with pytest.raises(UserError, match="written by a version of ong with other recipes: unknown key of its benchmark"):
        list(verify([record]))
    with pytest.raises(UserError, match="--tolerance -1"):
        list(verify([record], tolerance=-1))
