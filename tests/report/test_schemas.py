"""The published JSON Schemas describe what is written and read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from fake_records import record

from ong.errors import UnknownNameError
from ong.experiments.json_schema import json_schema
from ong.experiments.kinds import KINDS
from ong.report.migrations import SCHEMA

ROOT = Path(__file__).parents[2]


def test_a_record_has_the_keys_of_its_schema() -> None:
    schema, content = json_schema("record"), record()
    assert set(content) <= set(schema["properties"])
    assert set(schema["required"]) <= set(content)
    assert schema["properties"]["schema"]["const"] == content["schema"]
    assert "environment" not in schema["properties"]  # a file of its own


@pytest.mark.parametrize("what", ["benchmark", "strategy"])
def test_recipes_have_the_keys_of_their_schema_and_others_are_refused(what: str) -> None:
    schema = json_schema(what)
    assert schema["additionalProperties"] is False
    paths = sorted((ROOT / ("benchmarks" if what == "benchmark" else "strategies")).glob("*.toml"))
    checked = 0
    for path in paths:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
        if recipe.get("kind", "continual") == "continual":
            given = {"name": path.stem, **recipe}
            assert set(given) <= set(schema["properties"]), path
            assert set(schema["required"]) <= set(given), path
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["record", "benchmark", "strategy"])
def test_every_kind_has_its_schemas(kind: str, what: str) -> None:
    schema = json_schema(what, kind)
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["$id"] == f"urn:ong:{what}:{kind}:{SCHEMA}"
    assert schema["properties"]["schema"]["const"] == SCHEMA
    assert json.loads(json.dumps(schema)) == schema


def test_an_unknown_one_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'record'"):
        json_schema("recrd")
    with pytest.raises(UnknownNameError, match="did you mean 'autoencoder'"):
        json_schema("record", "autoencoders")


def test_a_sweep_file_has_the_keys_of_its_schema() -> None:
    schema = json_schema("sweep")
    assert schema["$id"] == "urn:ong:sweep"
    of_runs = schema["$defs"]["RunsTable"]["properties"]
    paths = sorted((ROOT / "results").glob("*/sweep.toml"))
    assert len(paths) > 5
    for path in paths:
        sweep = tomllib.loads(path.read_text(encoding="utf-8"))
        assert set(sweep) <= set(schema["properties"])
        for table in sweep["runs"]:
            assert set(table) <= set(of_runs)
    assert all(part.get("description") for part in (*schema["properties"].values(), *of_runs.values()))
