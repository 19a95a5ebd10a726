"""Numbers in the tables of README and docs: each was measured, for the strategy of its row and where its column says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import evidence
import pytest
from evidence import FOLDERS, PAGES, RESULTS, by_seed, digits, interval, measured, perf, rounds_to, strategies

COLUMNS = {
    "leak": ("leak", 1.0), "unseen": ("leak_unseen", 1.0), "cosine": ("descent_cosine", 1.0), "MB": ("memory_bytes", 1e-6),
    "training loss": ("train_loss", 1.0), "test loss": ("test_loss", 1.0),
}  # fmt: skip
"""What a column's title has in it, and the quantity and unit it then has; other columns have accuracies."""
PASSED_OVER = {"paper", "lr", "seeds", "before"}
"""Words of the titles of columns that quote others, name a setting or tell what was measured before."""
ACCURACY = re.compile(r"(?<![\d.])0?\.\d{3}(?!\d)")

INTERVAL = re.compile(r"(\d*\.\d+) ± (\d*\.\d+)")


class Cell(NamedTuple):
    """A table's cell: where, what its row is called, its column's title, and the texts above, the nearest first."""

    page: str
    line: int
    row: str
    title: str
    above: tuple[str, ...]
    text: str


def cells_of(line: str) -> list[str]:
    return [part.strip() for part in line.strip().strip("|").split("|")]


def cells(path: Path) -> Iterator[Cell]:
    """Yield the cells of Markdown's tables, and of those that the terminal prints, from a row's second on."""
    heading, section, block = list[str](), "", None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            block = "" if block is None else None
        elif block is not None:
            words = line.split()
            block = words[0].rstrip(",") if line and not line.startswith(" ") and len(words) > 1 else block
            if line.startswith("  ") and len(words) > 3 and words[1].isdigit():
                for word in words[2:]:
                    yield Cell(path.name, number, words[0], "printed", (block,), word.lstrip("−+"))
        elif line.lstrip().startswith("|"):
            found = cells_of(line)
            heading = heading or found
            for title, text in zip(heading[1:], found[1:], strict=True):
                yield Cell(path.name, number, found[0], title, (title, heading[0], " ".join(heading), section), text)
        else:
            heading, section = [], line if line.startswith("#") else section


def plain(text: str) -> str:
    """Return words as names of folders have them: ``**Permuted MNIST**`` as ``permuted-mnist``."""
    return re.sub(r"[^a-z0-9+.@]+", "-", text.lower()).strip("-")


def named(names: set[str], text: str) -> list[str]:
    """Return the names that stand in a text as whole words; of names within names, the longer."""
    words, found = f"-{plain(text)}-", []
    for name in sorted(names - {""}, key=len, reverse=True):
        if f"-{plain(name)}-" in words:
            words = words.replace(f"-{plain(name)}-", "--")
            found.append(name)
    return found


def sources(cell: Cell) -> list[tuple[str, str]]:
    """Return the folders and benchmarks that a cell is about: the nearest text above it that names one tells."""
    pairs = {(folder, row.get("benchmark", "")) for folder in FOLDERS for row in evidence.rows(folder)}
    for text in cell.above:
        folders = set(named(set(FOLDERS), text))
        if chosen := [pair for pair in pairs if pair[0] in folders]:
            return chosen
        words = {"permuted": "permuted-mnist", "rotated": "rotated-mnist"}
        about = set(named({benchmark for _, benchmark in pairs}, words.get(plain(text), text)))
        if chosen := [pair for pair in pairs if pair[1] in about and pair[0] != "rates"]:
            return chosen
    return sorted(pairs)


def known(cell: Cell) -> list[tuple[float, ...]]:
    """Return what may stand in a cell: intervals (mean, half-width) and the numbers of single seeds."""
    found: list[tuple[float, ...]] = []
    for folder, benchmark in sources(cell):
        for strategy in named(strategies(folder), cell.row):
            keys = [pair for words, pair in COLUMNS.items() if words in cell.title] or [("ACC", 1.0)]
            if cell.title == "printed" or folder == "sensitivity":
                keys += [(key, 1.0) for key in evidence.rows(folder)[0] if key not in ("seed", "size", "draw")]
            for key, unit in keys:
                if key not in ("benchmark", "strategy", "settings", "cpu_capability", "needs"):
                    values = [value * unit for value in by_seed(folder, strategy, key, benchmark).values()]
                    found += [interval(values), *((value,) for value in values)] if values else []
            if cell.title.startswith("s an"):  # processor seconds an epoch, which only the page tells
                lines = (RESULTS / folder / "report.md").read_text(encoding="utf-8").splitlines()
                rows = [line for line in lines if line.startswith(f"| {strategy} ")]
                found += [(float(number),) for row in rows for number in digits(row)]
    return found


def is_measured(cell: Cell) -> bool:
    """Whether a cell's numbers are a mean with its half-width, or each one that was measured."""
    written = digits(cell.text) if any(words in cell.title for words in COLUMNS) else []
    written = written or (digits(cell.text) if cell.title.startswith("s an") else ACCURACY.findall(cell.text))
    pool = known(cell)
    if pairs := INTERVAL.findall(cell.text):
        return all(any(len(p) == 2 and all(map(rounds_to, p, pair)) for p in pool) for pair in pairs)
    return all(any(rounds_to(p[0], number) for p in pool) for number in written)


def wrong(path: Path) -> list[Cell]:
    chosen = [cell for cell in cells(path) if not PASSED_OVER & set(cell.title.lower().split())]
    return [cell for cell in chosen if not is_measured(cell)]


@pytest.mark.parametrize("path", [path for path in PAGES if path.name != "performance.md"], ids=lambda path: path.name)
def test_every_result_in_a_table_was_measured(path: Path) -> None:
    assert wrong(path) == []


def test_a_number_that_nobody_measured_is_found_out(tmp_path: Path) -> None:
    mean, half = evidence.mean("permuted-mnist", "ncl")
    (kept, _), (leak, _) = (evidence.mean("permuted-mnist", "ncl", key) for key in ("memory_bytes", "leak"))
    right, far = f"{mean:.3f} ± {half:.3f}", f"{mean + 0.03:.3f} ± {half:.3f}"
    (tmp_path / "page.md").write_text(
        f"No table: .123\n\n| | Permuted MNIST | of the paper | MB kept |\n|---|--:|---|---|\n"
        f"| **ncl** (x) | {right} | .111 | {kept / 1e6:.1f} |\n| ncl | **{far}** | – | {kept / 1e6 + 0.2:.1f} |\n"
        f"| ewc | {right} | | |\n\n| Permuted MNIST | leak |\n|---|---|\n| `ncl` | {leak:.2f} |\n| `ncl` | {leak + 0.1:.2f} |\n\n"
        f"```\npermuted-mnist, 10 tasks\n  Strategy  Seeds  ACC\n  ncl   1   {mean:.3f}   {mean + 0.03:.3f}\n```\n",
        encoding="utf-8",
    )
    found = [(cell.line, cell.title) for cell in wrong(tmp_path / "page.md")]
    assert found == [(6, "Permuted MNIST"), (6, "MB kept"), (7, "Permuted MNIST"), (12, "leak"), (17, "printed")]


def not_in_perf(text: str) -> list[str]:
    """Return the numbers in a text's tables that no program in ``perf/`` wrote; rows and columns of "before" go by."""
    known = [value for path in RESULTS.glob("performance/*.json") for value in measured(perf(path.stem))]
    tables = " ".join(path.read_text(encoding="utf-8") for path in RESULTS.glob("performance/*.md"))
    written, found, heading = set(digits(tables)), [], list[str]()
    for line in text.splitlines():
        parts = cells_of(line) if line.startswith("|") else []
        heading = (heading or parts) if parts else []
        if "before" not in " ".join(parts[:1]).lower():
            for title, part in zip(heading[1:], parts[1:], strict=True):
                missing = [n for n in digits(part) if n not in written and not any(rounds_to(v, n) for v in known)]
                found += [f"{parts[0]}: {number}" for number in missing if "before" not in title.lower()]
    return found


def test_every_number_in_a_table_of_the_page_of_performance_was_measured() -> None:
    path = next(path for path in PAGES if path.name == "performance.md")
    assert not_in_perf(path.read_text(encoding="utf-8")) == []
    assert not_in_perf("| | s |\n|---|---|\n| a | 98765.4 |\n| before | 98765.4 |\n") == ["a: 98765.4"]
