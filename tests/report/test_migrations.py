"""Records and recipes of older versions load; those of newer ones are refused.

``records/version-1.json`` was written in November 2026 by the ong of commit 84b817f; its tasks after the third were
taken out.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from fake_records import write_record

import ong
from ong.errors import UserError
from ong.experiments.recipes import load_benchmark, load_strategy
from ong.experiments.schema import Buildable
from ong.experiments.store import RunFolder
from ong.report import migrations
from ong.report.migrations import SCHEMA, migrated
from ong.report.reading import read_runs
from ong.report.records import read_record

NAIVE = {"use": "avalanche.training.supervised:Naive"}


@pytest.fixture
def old() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((Path(__file__).parent / "records/version-1.json").read_text())
    assert content["schema"] == 1
    assert content["strategy"]["template"] == NAIVE["use"]
    return content


def test_a_record_of_version_1_loads_into_tables(old: dict[str, Any], tmp_path: Path) -> None:
    read = read_record(write_record(tmp_path, old))
    assert read.strategy["template"] == NAIVE
    assert read.strategy["wrapper"] is None
    assert read.benchmark["training"]["validation"] is False
    accuracy = ong.load(tmp_path).table().loc["ong-prior", ("ACC", "mean")]
    assert accuracy == pytest.approx((0.936 + 0.9285 + 0.9435) / 3)  # the last row of its matrix


def test_records_of_both_versions_are_of_one_recipe(old: dict[str, Any], tmp_path: Path) -> None:
    new = migrated(copy.deepcopy(old), "new") | {"seed": 1}
    assert new["schema"] == SCHEMA
    for content in (old, new):
        write_record(tmp_path, content)
    (runs,) = read_runs(tmp_path)
    assert runs.notes() == ["Fewer than 5 seeds: ong-prior (2)."]  # and none of recipes that differ


def test_a_record_that_has_todays_form_already_only_gets_its_number(old: dict[str, Any]) -> None:
    new = migrated(old, "new")
    assert migrated(new | {"schema": 1}, "same form") == new
    other = {"schema": 1, "benchmark": {"name": "b", "training": {"epochs": 1}}, "strategy": {"name": "s"}}
    assert migrated(other, "another kind") == other | {"schema": SCHEMA}


def test_a_finished_run_of_version_1_counts_as_finished(old: dict[str, Any], tmp_path: Path) -> None:
    write_record(tmp_path, old)
    found = RunFolder(tmp_path, "permuted-mnist", "ong-prior", 0).record()
    assert found == migrated(old, "old")


def test_every_version_before_todays_has_its_step() -> None:
    assert sorted(migrations._FROM) == list(range(1, SCHEMA))


def test_a_recipe_says_which_version_it_was_written_for(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    text = 'summary = "s"\nsource = "me"\ntemplate = "my:Template"\noptimizer = { use = "torch.optim:SGD", lr = 0.1 }\n'
    path.write_text(f"schema = 1\n{text}")
    recipe = load_strategy(str(path))
    assert getattr(recipe, "template") == Buildable(use="my:Template")  # noqa: B009
    path.write_text(text)
    with pytest.raises(UserError, match=r"mine.toml': 'template'"):
        load_strategy(str(path))


@pytest.mark.parametrize("version", [SCHEMA + 1, 0, "2", True])
def test_a_version_that_is_not_known_is_refused(version: object, old: dict[str, Any], tmp_path: Path) -> None:
    told = f"{version!r}, but this ong reads versions 1 to {SCHEMA}"
    with pytest.raises(UserError, match=f"r.json: schema version {told}"):
        migrated(old | {"schema": version}, "r.json")
    path = tmp_path / "mine.toml"
    path.write_text(f"schema = {json.dumps(version)}\nkind = 'continual'")
    for load in (load_strategy, load_benchmark):
        with pytest.raises(UserError, match=f"'schema' is {told}"):
            load(str(path))
