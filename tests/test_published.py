"""Published records: each stands in a sweep file beside it, and is of the recipes that this file names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence import RESULTS

from ong.experiments.autoencoder import schema
from ong.experiments.store import deciding
from ong.experiments.sweep_file import sweep_jobs

SWEEPS = sorted(RESULTS.glob("*/sweep.toml"))


@pytest.fixture
def every_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plan also runs whose optimizer is not installed."""
    monkeypatch.setattr(schema, "find_spec", lambda name: True)


def test_every_published_folder_has_a_sweep_file() -> None:
    folders = {path.relative_to(RESULTS).parts[0] for path in RESULTS.rglob("seed-*/record.json")}
    assert folders == {path.parent.name for path in SWEEPS}


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
@pytest.mark.usefixtures("every_package")
def test_a_sweep_file_means_the_records_beside_it(path: Path) -> None:
    found = set(path.parent.rglob("seed-*/record.json"))
    assert {job.folder.path / "record.json" for job in sweep_jobs(path)} == found


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.parent.name)
@pytest.mark.usefixtures("every_package")
def test_records_are_of_the_recipes_that_their_sweep_file_names(path: Path) -> None:
    differing = []
    for job in sweep_jobs(path):
        record = deciding(json.loads((job.folder.path / "record.json").read_text(encoding="utf-8")))
        wanted = deciding(json.loads(json.dumps(job.settings)))
        differing += [job.label for key, value in wanted.items() if record[key] != value]
    assert differing == []
