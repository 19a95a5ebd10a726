"""Inputs that nobody means: recipes, settings, records and checkpoints changed at random give clear errors only.

500 inputs of each, and 10,000 with ``-m nightly``.
"""

from __future__ import annotations

import io
import json
import random
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import EXAMPLES, ODD, changed, scrambled, tried
from hypothesis import strategies as st
from rich.console import Console

from ong.experiments.arguments import parse_seeds, parse_settings
from ong.experiments.kinds import KINDS, kind_of
from ong.experiments.memory import read_budgets
from ong.experiments.plan import plan
from ong.experiments.recipes import checked, list_recipes, load_benchmark, load_strategy, recipe_path
from ong.experiments.store import RunFolder
from ong.experiments.tune_write import write_block
from ong.report.records import read_record, understood
from ong.report.terminal import print_record

RESULTS = Path(__file__).parents[1] / "results"
RECORDS = [
    RESULTS / "permuted-mnist/ong-prior/seed-0/record.json",
    RESULTS / "permuted-mnist/joint/seed-0/record.json",
    *(min(RESULTS.glob(f"{name}/*/seed-0/record.json")) for name in ("mnist-autoencoder", "deep-linear-net2")),
    min(RESULTS.glob("fisher-variance/*/seed-0/record.json")),
]


def recipes() -> list[tuple[str, str]]:
    """Every recipe of the package: its kind, empty for benchmarks, and its text."""
    found = [("", recipe_path(name, "benchmarks").read_text()) for name in list_recipes("benchmarks")]
    return found + [
        (kind.name, recipe_path(name, kind.folder).read_text())
        for kind in KINDS.values()
        for name in list_recipes(kind.folder)
    ]


@pytest.mark.parametrize("count", EXAMPLES)
def test_recipes_with_other_values(count: int) -> None:
    tables = [{"of": kind, "holds": {"name": "x"} | tomllib.loads(text)} for kind, text in recipes()]

    def use(table: dict[str, Any]) -> None:
        values, kind = table.get("holds"), table.get("of")
        if not isinstance(values, dict):
            return
        if kind == "":
            checked(kind_of(str(values.get("kind"))).benchmark, values, "benchmark recipe 'x'")
        elif isinstance(kind, str):
            checked(kind_of(kind).strategy, values, "strategy recipe 'x'")

    tried(count, changed(tables), use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_recipes_with_other_characters(count: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    texts = [f"{kind}\n{text}" for kind, text in recipes()]
    texts += ["\na = " + "[" * 3000, "\na = " + "1" * 5000, "\n" + "[a" + ".a" * 3000 + "]"]

    def use(text: str) -> None:
        kind, _, rest = text.partition("\n")
        path.write_bytes(rest.encode("utf-8", "surrogatepass"))
        load_strategy(str(path), kind) if kind in KINDS else load_benchmark(str(path))

    tried(count, scrambled(texts), use)


def dotted(values: Any, start: str = "") -> list[str]:
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    return [k for key, value in inner for k in (f"{start}{key}", *dotted(value, f"{start}{key}."))]


@pytest.mark.parametrize("count", EXAMPLES)
def test_settings(count: int, tmp_path: Path) -> None:
    keys = dotted(load_benchmark("permuted-digits").settings()) + dotted(load_strategy("ong-prior").settings())
    key = st.sampled_from(keys) | scrambled(keys) | st.text(max_size=10)
    value = st.text(max_size=12) | ODD.map(repr) | ODD.map(str)
    value |= st.sampled_from(["[" * 5000, "1" * 5000, "1_000", "0x10", "2026-11-29", "{a=1}", "inf", "'''", "1\nb=2"])
    setting = st.tuples(key, value).map("=".join) | st.text(max_size=10)

    def use(given_: tuple[list[str], str, str]) -> None:
        plan("permuted-digits", ["ong-prior"], parse_seeds(given_[1]), parse_settings(given_[0]), out=tmp_path)
        read_budgets(given_[2])

    seeds = st.sampled_from(["1", "3", "0-4", "3,7", "0-2,5"]) | st.text("0123456789,- ²٣", max_size=6)
    budgets = st.sampled_from(["4MB", "1kB,2MB"]) | st.text("0123456789.kMGB,e", max_size=8)
    tried(count, st.tuples(st.lists(setting, min_size=1, max_size=3), seeds, budgets), use)


@pytest.mark.parametrize("count", [pytest.param(40, id="40"), pytest.param(1000, id="1000", marks=pytest.mark.nightly)])
def test_runs_that_are_built_of_odd_values(count: int, tmp_path: Path) -> None:
    keys = ["optimizer.lr", "plugins.0.damping", "plugins.0.directions_per_task", "stream.tasks", "training.batch_size"]
    keys += ["model.hidden", "plugins.0.use", "plugins.0.pull", "optimizer.use", "stream.first_identity", "model.name"]

    def use(change: tuple[str, Any]) -> None:
        (job,) = plan("permuted-digits", ["ong-prior"], [0], dict([change]), out=tmp_path)
        job.run()

    tried(count, st.tuples(st.sampled_from(keys), ODD), use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_records_with_other_values(count: int, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    records = [shortened(json.loads(record.read_text())) for record in RECORDS]

    def use(values: Any) -> None:
        path.write_text(json.dumps(values) if not isinstance(values, str) else values)
        with understood(path):
            print_record(read_record(path), Console(file=io.StringIO(), width=80))

    tried(count, changed(records), use)


def shortened(value: Any) -> Any:
    """A record with strings that are no images, so that thousands are written in seconds."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items() if key != "reconstructions"}
    return [shortened(part) for part in value] if isinstance(value, list) else value


@pytest.mark.parametrize("count", EXAMPLES)
def test_records_with_other_characters(count: int, tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    texts = [json.dumps(shortened(json.loads(record.read_text()))) for record in RECORDS]
    texts += ["[" * 100_000, '{"schema": ' + "1" * 5000 + "}"]

    def use(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with understood(path):
            print_record(read_record(path), Console(file=io.StringIO(), width=80))

    tried(count, scrambled(texts), use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_checkpoints_with_other_bytes(count: int, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "b", "s", 0)
    folder.prepare()
    folder.save_checkpoint({"rows": [[0.1, 0.2]], "model": {"weights": {"a": torch.zeros(3, 3)}}}, {"seed": 0})
    path = folder.path / "checkpoint.pt"
    whole = path.read_bytes()

    def use(place: tuple[int, int, bytes]) -> None:
        start, length, put = place
        content = whole[:start] + put + whole[start + length :]
        path.write_bytes(content)
        found = folder.checkpoint({"seed": 0})
        assert content == whole
        assert found is not None

    places = st.tuples(st.integers(0, len(whole)), st.integers(0, 40), st.binary(max_size=40))
    tried(count, places, use)


@pytest.mark.parametrize("count", EXAMPLES)
def test_recipes_that_a_search_writes_into(count: int, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    texts = [text for kind, text in recipes() if kind == "continual"]
    told = random.Random(0)

    def use(text: str) -> None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        write_block(path, f"b{told.randrange(3)}", {"optimizer.lr": 0.1}, "as said")
        assert tomllib.loads(path.read_text())["on"]

    tried(count, scrambled(texts), use)
