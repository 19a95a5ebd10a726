"""The figure and the table of what is promised and measured."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_records import record, write_record

from ong.report.certificates import certificate_text, certified, promised_and_measured
from ong.report.page import page
from ong.report.reading import read_runs
from ong.report.runs import Runs
from ong.report.tables import seeds_frame, summary_text
from ong.report.write import write_report

TASKS = 4
HAS = {
    "ong-prior": ("promised", "exact", "nonlinear", "measured", "distance", "distance_measured", "stored", "stored_measured"),
    "ogd": ("measured", "distance", "distance_measured", "stored", "stored_measured"),
    "gpm": ("promised", "exact", "nonlinear", "measured", "stored", "stored_measured"),
    "naive": ("measured", "stored", "stored_measured"),
}  # fmt: skip


def values(strategy: str, seed: int, key: str) -> list[float | None]:
    if key not in HAS[strategy]:
        return [None] * TASKS
    generator = np.random.default_rng([seed, len(strategy), len(key)])
    return [None, *(float(x) for x in generator.uniform(0.1, 10, TASKS - 1))]


def certified_record(strategy: str, seed: int) -> dict[str, Any]:
    content = record(strategy, seed, TASKS)
    keys = HAS["ong-prior"]
    content["diagnostics"] |= {f"certificate_{key}": values(strategy, seed, key) for key in keys}
    if strategy in ("ong-prior", "ogd"):
        content["diagnostics"]["directions"] = [10] * TASKS
    return content


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for strategy in HAS:
        for seed in range(2):
            write_record(tmp_path, certified_record(strategy, seed))
    return tmp_path


@pytest.fixture
def runs(folder: Path) -> Runs:
    (found,) = read_runs(folder)
    assert isinstance(found, Runs)
    return found


def test_those_with_a_promise_are_shown(runs: Runs) -> None:
    assert certified(runs) == [name for name in runs.strategies if name != "naive"]
    assert set(certificate_text(runs)["Strategy"]) == {"ong-prior", "ogd", "gpm"}


def test_lines_are_means_over_seeds_by_task_promised_dashed_and_measured_solid(runs: Runs) -> None:
    figure = promised_and_measured(runs)
    everything, unseen, stored = figure.axes
    styles = {"-": 0, "--": 0, ":": 0}
    for line in everything.lines:
        styles[str(line.get_linestyle())] += 1
    assert styles == {"-": 3, "--": 2, ":": 2}  # OGD has no promise of all logits
    for axes, promise, measure in ((unseen, "distance", "distance_measured"), (stored, "stored", "stored_measured")):
        drawn = {}
        for line in axes.lines:
            drawn.setdefault(str(line.get_linestyle()), []).append(np.asarray(line.get_ydata(), dtype=float))
        for style, key in (("--", promise), ("-", measure)):
            has = [name for name in certified(runs) if key in HAS[name]]
            if key == "stored":  # it stores no gradients, so it promises nothing of these
                has.remove("gpm")
            for name, line in zip(has, drawn[style], strict=True):
                seeds = [values(name, seed, key) for seed in range(2)]
                expected = [math.nan if None in of_task else np.mean(of_task) for of_task in zip(*seeds, strict=True)]
                np.testing.assert_allclose(line, expected)


def test_columns_are_there_for_who_asks_and_in_the_csv(runs: Runs) -> None:
    assert "Promised" not in summary_text(runs)
    asked = summary_text(runs, ["ACC", "certificate_promised"]).set_index("Strategy")["Promised"]
    assert asked["ogd"] == "–"
    frame = seeds_frame(runs)
    row = frame[(frame["strategy"] == "ong-prior") & (frame["seed"] == 1)].iloc[0]
    assert row["certificate_promised"] == pytest.approx(np.mean(values("ong-prior", 1, "promised")[1:]))


def test_every_form_of_the_report_has_them(folder: Path, runs: Runs) -> None:
    names = {str(path.relative_to(folder)) for path in write_report(folder, ["md", "png"])}
    assert {"figures/promised.png", "figures/promised.svg"} <= names
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "![Promised and measured](figures/promised.png)" in text
    assert "Promised and measured</h2>" in page([runs])


def test_without_certificates_there_is_no_such_section(tmp_path: Path) -> None:
    write_record(tmp_path, record("ogd"))
    (runs,) = read_runs(tmp_path)
    assert "Promised and measured" not in page([runs])
    assert not any("promised" in path.name for path in write_report(tmp_path, ["png"]))
    assert "certificate_promised" not in seeds_frame(runs)  # type: ignore[arg-type]
