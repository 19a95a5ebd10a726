"""Names and summaries that would mean something to what shows them are printed as they stand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from fake_records import matrix, record, write_failure, write_record, write_runs
from rich.console import Console

from ong.report.compare import print_differences
from ong.report.figures import accuracy_curves, render
from ong.report.markdown import _code, markdown
from ong.report.reading import read_runs
from ong.report.records import read_failure, read_record
from ong.report.runs import Runs
from ong.report.terminal import print_record, print_summary
from ong.report.text import for_markdown
from ong.report.write import write_report

ESCAPE = "\x1b[31mred\x07\x9b2J\u202e"


def named(folder: Path, name: str, seed: int = 0) -> Path:
    content = record("ogd", seed, tasks=3)
    path = write_record(folder, content)
    content["strategy"] |= {"name": name, "summary": name, "needs": [name]}
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_a_spreadsheet_computes_no_name(tmp_path: Path, name: str) -> None:
    named(tmp_path, name)
    write_report(tmp_path, ["csv", "matrices"])
    for file in ("report.csv", "matrices.csv"):
        with (tmp_path / file).open(newline="") as lines:
            row = next(csv.DictReader(lines))
        assert row["strategy"] == f"'{name}"
    assert float(next(csv.DictReader((tmp_path / "report.csv").open()))["BWT"]) < 0  # numbers stay numbers


def test_a_terminal_gets_no_control_characters(tmp_path: Path) -> None:
    path = named(tmp_path, ESCAPE)
    write_runs(tmp_path, ["naive"], seeds=1, tasks=3)
    failure = write_failure(tmp_path, "gpm", 1)
    failure.write_text(json.dumps(json.loads(failure.read_text()) | {"message": ESCAPE}))
    (runs,) = read_runs(tmp_path)
    assert isinstance(runs, Runs)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_record(read_record(path), console)
    print_summary([read_record(path)], console, [read_failure(failure)])
    print_differences(runs, "naive", console)
    text = console.export_text()
    assert text.count("?[31mred??2J?") >= 5
    assert all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("a*b*", r"a\*b\*"),
        ("_x_ batch_size", r"\_x\_ batch_size"),
        ("`code` [link](x)", r"\`code\` \[link](x)"),
        ("$x$ a|b <b>", r"\$x\$ a\|b &lt;b>"),
        ("&lt; A&B", "&amp;lt; A&B"),
        ("line\nbreak", "line break"),
        ("\\", "\\\\"),
    ],
)
def test_markdown_prints_text_as_it_stands(text: str, safe: str) -> None:
    assert for_markdown(text) == safe


def test_bold_in_markdown_is_ours_alone(tmp_path: Path) -> None:
    named(tmp_path, "**ogd**")
    text = markdown(read_runs(tmp_path))
    assert r"| \*\*ogd\*\* |" in text
    assert f"| **{matrix('ogd', 0, 3).after[-1].mean():.3f}** |" in text


@pytest.mark.parametrize("name", ["$x_1$", "a$", "_hidden", "\\frac{1}{2}", "x^2_"])
def test_a_figure_prints_names_as_they_stand(tmp_path: Path, name: str) -> None:
    named(tmp_path, name)
    (runs,) = read_runs(tmp_path)
    assert isinstance(runs, Runs)
    svg = render(accuracy_curves(runs), "svg", outlines=False).decode()
    assert f">{' ' if name[0] == '_' else ''}{name}</text>" in svg


def test_twenty_tasks_are_readable_in_eighty_columns(tmp_path: Path) -> None:
    path = write_record(tmp_path, record("ogd", tasks=20))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_record(read_record(path), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("…" in line for line in lines)
    row = next(line for line in lines if line.strip().startswith("before"))
    assert [int(x) for x in row.split()[1:]] == [round(100 * x) for x in matrix("ogd", 0, 20).before]
    last = next(line for line in lines if line.split()[:1] == ["19"] and len(line.split()) == 21)
    assert [int(x) for x in last.split()[1:]] == [round(100 * x) for x in matrix("ogd", 0, 20).after[-1]]


def test_a_hundred_tasks_come_some_at_a_time(tmp_path: Path) -> None:
    path = write_record(tmp_path, record("naive", tasks=100))
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_record(read_record(path), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.strip().startswith("before") for line in lines) >= 5


def test_code_in_a_cell_of_markdown_stands_as_it_is_but_for_what_ends_either() -> None:
    assert _code("½ max|q″| of E[x_i]") == r"`½ max\|q″\| of E[x_i]`"
    assert _code("a`b\x1b") == "`a'b?`"
    assert _code("") == ""
