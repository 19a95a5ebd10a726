import csv
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fake_records import matrix, record, write_failure, write_record, write_runs

from ong.errors import UserError
from ong.metrics import METRICS
from ong.report.latex import escape, latex
from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.published import published
from ong.report.reading import read_runs
from ong.report.tables import seeds_text, summary_text
from ong.report.write import write_report

HOSTILE = '<script>alert("x")</script> & | _50%_'


class _Page(HTMLParser):
    """Collects the text, the tags still open and every address that a page refers to."""

    VOID = ("meta", "img", "source", "br", "link", "input", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.open, self.addresses, self.tags = "", [], [], set()  # type: ignore[var-annotated]
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value for key, value in attrs if key in ("src", "href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        else:
            self.text += data


def test_a_report_is_written_beside_its_records_and_returned(tmp_path: Path) -> None:
    written = write_report(write_runs(tmp_path, ["naive", "ogd"], seeds=2, tasks=3))
    names = [str(path.relative_to(tmp_path)) for path in written]
    figures = ("accuracy", "accuracy-train-seconds", "matrix-ogd", "matrix-naive")
    assert sorted(names) == sorted(
        [
            *("report.md", "report.csv", "report.tex", "report.html"),
            *(f"figures/{name}.{form}" for name in figures for form in ("png", "svg")),
        ]
    )
    assert all(path.stat().st_size for path in written)


def test_only_the_formats_asked_for_are_written(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=1, tasks=3)
    assert [path.name for path in write_report(tmp_path, ["csv"])] == ["report.csv"]
    assert not (tmp_path / "report.html").exists()


def test_an_unknown_format_is_refused_with_the_nearest_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown report format 'htm'; did you mean 'html'"):
        write_report(tmp_path / "nowhere", ["md", "htm"])


def test_a_place_that_cannot_be_written_to_is_the_users_error(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=1, tasks=3)
    (tmp_path / "report.md").mkdir()
    with pytest.raises(UserError, match=r"report\.md' is a directory, where a file is expected; move it away"):
        write_report(tmp_path, ["md"])
    (tmp_path / "figures").touch()
    with pytest.raises(UserError, match=r"cannot write '.*figures.*: File exists$"):
        write_report(tmp_path, ["png"])


def test_of_a_place_that_nothing_can_be_written_to_a_way_out_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_runs(tmp_path, ["naive"], seeds=1, tasks=3)
    (tmp_path / "report.md").mkdir()  # stands for a file system that refuses
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="beside the records, so copy these to a place you may write to"):
        write_report(tmp_path, ["md"])


def test_writing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "joint"], seeds=2, tasks=3)
    one = {path: path.read_bytes() for path in write_report(tmp_path)}
    two = {path: path.read_bytes() for path in write_report(tmp_path)}
    assert one == two


def test_the_report_does_without_torch_and_avalanche() -> None:
    modules = "ong.metrics, ong.report.write, ong.report.terminal"
    check = f"import sys, {modules}; sys.exit(bool({{'torch', 'avalanche'}} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_several_benchmarks_have_a_section_and_a_folder_each(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=1, tasks=3)
    write_runs(tmp_path, ["naive"], seeds=1, benchmark="split-mnist", tasks=5)
    write_report(tmp_path)
    assert (tmp_path / "figures/permuted-mnist/accuracy.png").exists()
    assert (tmp_path / "figures/split-mnist/matrix-naive.svg").exists()
    for name in ("permuted-mnist", "split-mnist"):
        assert f"## {name}" in (tmp_path / "report.md").read_text()
        assert f"\\label{{tab:{name}}}" in (tmp_path / "report.tex").read_text()
        assert f">{name}</h2>" in (tmp_path / "report.html").read_text()
        assert f"\n{name},naive,0," in (tmp_path / "report.csv").read_text()


def test_csv_has_a_row_a_run_with_every_metric_at_full_precision(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "joint"], seeds=2, tasks=3)
    write_report(tmp_path, ["csv"])
    with (tmp_path / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["strategy"], row["seed"]) for row in rows] == [
        ("joint", "0"), ("joint", "1"), ("naive", "0"), ("naive", "1")
    ]  # fmt: skip
    assert float(rows[2]["ACC"]) == pytest.approx(matrix("naive", 0, tasks=3).after[-1].mean(), abs=1e-15)
    assert rows[0]["BWT"] == ""
    assert set(METRICS) <= set(rows[0])


def test_markdown_links_figures_that_exist_and_only_if_they_are_written(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "ogd"], seeds=2, tasks=3)
    write_report(tmp_path, ["md"])
    assert "![" not in (tmp_path / "report.md").read_text()
    write_report(tmp_path, ["md", "png"])
    links = re.findall(r"!\[.*?\]\((.*?)\)", (tmp_path / "report.md").read_text())
    assert len(links) == 4
    assert all((tmp_path / link).exists() for link in links)


def test_markdown_tables_are_rectangular_even_with_hostile_names(tmp_path: Path) -> None:
    content = record("naive")
    content["strategy"] |= {"name": HOSTILE, "needs": ["a | b"]}
    write_record(tmp_path, record("naive")).write_text(json.dumps(content))
    for block in markdown(read_runs(tmp_path)).split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
            assert "<script>" not in block


def test_every_report_prints_the_formulas(tmp_path: Path) -> None:
    groups = read_runs(write_runs(tmp_path, ["naive"], seeds=1, tasks=3))
    text = _Page(page(groups)).text
    for name, metric in METRICS.items():
        assert f"| `{name}` | `{metric.formula}` |" in markdown(groups)
        assert metric.formula in text


def test_latex_rows_have_as_many_cells_as_columns_and_best_is_bold(tmp_path: Path) -> None:
    text = latex(read_runs(write_runs(tmp_path, ["naive", "ogd", "er-replay", "joint"], seeds=3, tasks=3)))
    (columns,) = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + 4
    assert {row.count(" & ") + 1 for row in rows} == {len(columns)}
    assert text.count("{") == text.count("}")
    bold = [row.split(" & ")[0].strip() for row in rows if row.split(" & ")[1].startswith(r"\(\mathbf")]
    assert bold == ["er-replay"]  # joint is better, and does not compete
    assert text.isascii()


def test_latex_mathematics_parses(tmp_path: Path) -> None:
    from matplotlib.mathtext import MathTextParser  # the TeX at hand on a machine without LaTeX

    text = latex(read_runs(write_runs(tmp_path, ["naive", "ogd"], seeds=3, tasks=3)))
    cells = re.findall(r"\\\((.*?)\\\)", text)
    assert len(cells) > 10
    for cell in cells:
        MathTextParser("path").parse(f"${cell}$".replace(r"\mathbf{-", r"\mathbf{ -"))


def test_latex_escapes_what_tex_reads_as_commands() -> None:
    assert escape("50% of a_b & {c} #1 $x^2$ ~ \\") == (
        r"50\% of a\_b \& \{c\} \#1 \$x\textasciicircum{}2\$ \textasciitilde{} \textbackslash{}"
    )
    assert escape("90° Λ") == r"90\(^\circ\) ?"


def test_the_page_is_well_formed_and_refers_to_nothing_outside_itself(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "joint", "scratch"], seeds=2, tasks=3)
    text = page(read_runs(tmp_path))
    parsed = _Page(text)
    assert parsed.open == []
    assert all(address.startswith(("#", "data:image/svg+xml;base64,")) for address in parsed.addresses)
    assert "default-src 'none'" in text  # the browser holds it to that
    outside = text
    for script in parsed.scripts:
        outside = outside.replace(script, "")
    assert "@import" not in outside
    assert "url(" not in outside
    for anchor in (address[1:] for address in parsed.addresses if address.startswith("#")):
        assert f'id="{anchor}"' in text


def test_the_page_shows_every_value_of_the_tables(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "er-replay", "joint", "scratch"], seeds=3, tasks=3)
    write_failure(tmp_path, "ogd", 7)
    (runs,) = read_runs(tmp_path)
    text = _Page(page([runs])).text
    for frame in (summary_text(runs), seeds_text(runs)):
        for cell in frame.to_numpy().ravel():
            assert all(part in text for part in str(cell).split(" ± "))
    for fact in (
        "the loss became NaN", "needs stored examples", "plugins.0.damping", "versions.python", "3.11.7",
        "Published by others", "HyperFisher", "Fewer than 5 seeds",
    ):  # fmt: skip
        assert fact in text


def test_the_page_escapes_what_records_say(tmp_path: Path) -> None:
    content = record("naive")
    content["strategy"]["summary"] = HOSTILE
    content["strategy"]["needs"] = [HOSTILE]
    content["benchmark"]["dataset"] = HOSTILE
    path = write_record(tmp_path, content)
    content["strategy"]["name"] = HOSTILE
    path.write_text(json.dumps(content))
    text = page(read_runs(tmp_path))
    assert "<script>alert" not in text
    assert HOSTILE in _Page(text).text


def test_the_page_of_one_seed_without_diagnostics_still_stands(tmp_path: Path) -> None:
    path = write_record(tmp_path, record("ogd", diagnostics={"ranks": {"fc1": 3}}, timing={}, metrics={}))
    path.with_name("environment.json").unlink()
    text = _Page(page(read_runs(tmp_path))).text
    assert "Not recorded." in text
    assert '{"fc1": 3}' in text


def test_published_figures_stand_only_beside_their_own_benchmark() -> None:
    tables = published("permuted-mnist")
    assert ("GPM", "93.90", "") in tables[0].rows
    assert [table.source for table in tables][-1] == "HyperFisher"
    assert published("permuted-mnist-long") == tables
    assert [table.source for table in published("rotated-mnist")] == ["FOPNG's repository"]
    assert published("permuted-mnist2") == published("split-mnist") == []
