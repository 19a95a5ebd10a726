"""Published numbers: each stands in a record or report of ``results/``, and each record in a sweep file beside it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ong.experiments.autoencoder import schema
from ong.experiments.store import deciding
from ong.experiments.sweep_file import sweep_jobs

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SWEEPS = sorted(RESULTS.glob("*/sweep.toml"))
ACCURACY = re.compile(r"(?<![\d.])0?(\.\d{3})(?![\d])")
NUMBER = re.compile(r"[-+]?\d*\.?\d+(?:e[-+]?\d+)?")
QUOTED: dict[str, set[str]] = {"docs/strategies.md": {".685", ".667", ".572", ".191"}}
"""Numbers by file that no report has: quoted from papers, or of short trials; columns headed "paper" are passed over."""


class Cell(NamedTuple):
    """A number in a table: where, which one, and what its row and its column are about."""

    file: str
    line: int
    number: str
    row: str
    column: str


def plain(text: str) -> str:
    """Return words as names of folders have them: ``**Permuted MNIST**`` as ``permuted-mnist``."""
    return re.sub(r"[^a-z0-9+.]+", "-", text.lower()).strip("-")


def cells_of(line: str) -> list[str]:
    return [part.strip() for part in line.strip().strip("|").split("|")]


def numbers(path: Path) -> Iterator[Cell]:
    """Yield the accuracies in a file's tables: Markdown's, and those that the terminal prints."""
    heading: list[str] = []
    block: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name = path.relative_to(ROOT).as_posix()
        if line.startswith("```"):
            block = "" if block is None else None
        elif block is not None:
            words = line.split()
            block = words[0].rstrip(",") if line and not line.startswith(" ") and len(words) > 1 else block
            if line.startswith("  ") and len(words) > 3 and words[1].isdigit():
                for found in ACCURACY.findall(" ".join(words[2:])):
                    yield Cell(name, number, found, words[0], block)
        elif line.startswith("|"):
            cells = cells_of(line)
            heading = heading or cells
            for title, cell in zip(heading[1:], cells[1:], strict=True):
                for found in ACCURACY.findall(cell):
                    if "paper" not in title.lower():
                        yield Cell(name, number, found, cells[0], title)
        else:
            heading = []


@cache
def of_reports() -> dict[str, dict[str, list[float]]]:
    """Return by folder and strategy what its reports say: each seed's metrics, means and half-widths."""
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted(RESULTS.glob("*/report.csv")):
        own = found.setdefault(path.parent.name, {})
        with path.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                told = [v for k, v in row.items() if k not in ("seed", "draw", "size")]
                own.setdefault(row["strategy"], []).extend(abs(float(v)) for v in told if NUMBER.fullmatch(v))
        for line in path.with_suffix(".md").read_text(encoding="utf-8").splitlines():
            cells = cells_of(line)
            if line.startswith("|") and cells[0] in own:
                own[cells[0]] += [float(f"0{number}") for number in ACCURACY.findall(line)]
    return found


@cache
def anywhere() -> frozenset[str]:
    """Return every such number that stands in a text or table of the results."""
    kinds = "*.md", "*.json", "*.csv"
    paths = [path for kind in kinds for path in RESULTS.rglob(kind) if path.name != "record.json"]
    return frozenset(number for path in paths for number in ACCURACY.findall(path.read_text(encoding="utf-8")))


def named(names: Any, text: str) -> list[str]:
    """Return the longest of the names that stand in a text as whole words."""
    words = f"-{plain(text)}-"
    found = [name for name in names if f"-{plain(name)}-" in words]
    return [name for name in found if len(name) == max(map(len, found))]


def is_published(cell: Cell) -> bool:
    reports = of_reports()
    folders = named(reports, cell.column) or list(reports)
    strategies = named({name for folder in folders for name in reports[folder]}, cell.row)
    if not strategies:
        return cell.number in anywhere()
    value = float(f"0{cell.number}")
    pool = [v for folder in folders for strategy in strategies for v in reports[folder].get(strategy, [])]
    return any(abs(v - value) <= 0.0005 + 1e-9 for v in pool)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_accuracy_in_a_table_stands_in_a_published_report(path: Path) -> None:
    cells = [cell for cell in numbers(path) if cell.number not in QUOTED.get(cell.file, set())]
    assert [cell for cell in cells if not is_published(cell)] == []


def test_a_number_that_nobody_published_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = next(csv.DictReader((RESULTS / "permuted-mnist/report.csv").read_text(encoding="utf-8").splitlines()))
    right = f"{float(ours['ACC']):.3f}".removeprefix("0")
    told = [v for values in of_reports()["permuted-mnist"].values() for v in values]
    far = next(k / 1000 for k in range(999, 0, -1) if all(abs(k / 1000 - v) > 0.001 for v in told))
    wrong = f"{far:.3f}".removeprefix("0")
    text = (
        f"No table: .123\n\n| | Permuted MNIST | of the paper |\n|---|--:|---|\n| **{ours['strategy']}** (x) | {right} | .111 |\n"
        f"| {ours['strategy']} | **{wrong} ± {wrong}** | – |\n\n```\npermuted-mnist, 10 tasks\n"
        f"  Strategy  Seeds  ACC\n  {ours['strategy']}   1   0{right}   0{wrong}\n```\n"
    )
    (tmp_path / "page.md").write_text(text, encoding="utf-8")
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    found = list(numbers(tmp_path / "page.md"))
    assert [(cell.line, cell.number) for cell in found] == [
        (5, right), (6, wrong), (6, wrong), (11, right), (11, wrong),
    ]  # fmt: skip
    assert [is_published(cell) for cell in found] == [True, False, False, True, False]


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


def measured(values: Any) -> Iterator[float]:
    """Yield the numbers of a file that a program in ``perf/`` wrote."""
    for part in values.values() if isinstance(values, dict) else values if isinstance(values, list) else [values]:
        if isinstance(part, dict | list):
            yield from measured(part)
        elif isinstance(part, int | float):
            yield float(part)


def not_measured(text: str) -> list[str]:
    """Return the numbers in a text's tables that no program measured; rows and columns of "before" are passed over."""
    known = {v for path in RESULTS.glob("performance/*.json") for v in measured(json.loads(path.read_text()))}
    tables = " ".join(path.read_text(encoding="utf-8") for path in RESULTS.glob("performance/*.md"))
    written, found, heading = set(re.findall(r"\d*\.?\d+", tables)), [], list[str]()
    for line in text.splitlines():
        cells = cells_of(line) if line.startswith("|") else []
        heading = (heading or cells) if cells else []
        if "before" in " ".join(cells[:1]).lower():
            continue
        for title, cell in zip(heading[1:], cells[1:], strict=True):
            for number in re.findall(r"(?<![\w.])\d*\.?\d+", cell.replace(",", "")):
                rounding = 0.5 * 10.0 ** -len(number.partition(".")[2]) + 1e-9
                measured_so = number in written or any(abs(float(number) - value) <= rounding for value in known)
                if not measured_so and "before" not in title.lower():
                    found.append(f"{cells[0]}: {number}")
    return found


def test_every_number_in_a_table_of_the_page_of_performance_was_measured() -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert not_measured(text) == []
    assert not_measured("| | s |\n|---|---|\n| a | 98765.4 |\n| before | 98765.4 |\n") == ["a: 98765.4"]
