"""What a report shows of the runs: some strategies under labels of their own, some columns, on some paper."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fake_records import record, write_record, write_runs

from ong.errors import UnknownNameError, UserError
from ong.report.certificates import promised_and_measured
from ong.report.choice import Choice, read_choice
from ong.report.costs import accuracy_against
from ong.report.figures import DARK, LIGHT, accuracy_curves, render
from ong.report.latex import latex
from ong.report.looks import looks
from ong.report.markdown import markdown
from ong.report.page import page
from ong.report.reading import read_runs
from ong.report.runs import Runs
from ong.report.selection import choose
from ong.report.tables import summary_text
from ong.report.write import write_report

NAMES = ["naive", "ewc", "ogd", "er-replay", "joint"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_runs(tmp_path, NAMES, seeds=2, tasks=3)


def chosen(folder: Path, *arguments: object) -> Runs:
    (runs,) = choose(read_runs(folder), read_choice(*arguments))  # type: ignore[arg-type]
    assert isinstance(runs, Runs)
    return runs


def test_every_budget_that_was_asked_for_has_a_picture_and_else_the_largest(tmp_path: Path) -> None:
    for size in (1, 2, 4):
        content = record("er-replay")
        sized = {"budget": size * 10**6, "knob": "plugins.0.mem_size", "value": size}
        content["strategy"] |= {"name": f"er-replay@{size}MB", "memory": sized}
        write_record(tmp_path, content)
    assert chosen(tmp_path, "").pictured == ["er-replay@4MB"]
    assert chosen(tmp_path, "er-replay@2MB,er-replay@1MB").pictured == ["er-replay@2MB", "er-replay@1MB"]


def test_only_those_asked_for_are_shown_in_their_order_under_their_labels(folder: Path) -> None:
    runs = chosen(folder, "ogd, naive", ["ogd=OGD (ours)"], "BWT,ACC")
    assert list(summary_text(runs).columns) == ["Strategy", "Seeds", "BWT", "ACC"]
    assert summary_text(runs)["Strategy"].tolist() == ["OGD (ours)", "naive"]
    rows = [line.split(" & ")[0].strip() for line in latex([runs]).splitlines() if line.endswith(r"\\")]
    assert rows == ["Strategy", "OGD (ours)", "naive"]
    assert r"\begin{tabular}{lrr}" in latex([runs])
    text = markdown([runs])
    assert "| OGD (ours) |" in text
    assert "er-replay" not in text
    assert [t.get_text() for t in accuracy_curves(runs).axes[0].get_legend().get_texts()] == ["OGD (ours)", "naive"]
    told = page([runs])
    assert 'data-strategy="ogd" data-label="OGD (ours)"' in told
    assert 'data-strategy="ewc"' not in told


def test_bytes_and_seconds_in_latex_are_text_without_interval(folder: Path) -> None:
    rows = [
        line.split(" & ")
        for line in latex([chosen(folder, "ogd", [], "memory_bytes,leak")]).splitlines()
        if "&" in line
    ]
    memory, leak = (cell.removesuffix(r" \\") for cell in rows[1][1:])
    assert memory == "4.8 MB"
    assert re.fullmatch(r"\d\.\de\\\(-\\\)07", leak)


def test_metrics_that_compare_with_those_left_out_stay(folder: Path) -> None:
    everything, some = (summary_text(chosen(folder, only)).set_index("Strategy") for only in ("", "ogd"))
    assert some.loc["ogd", "Recovered"] == everything.loc["ogd", "Recovered"] != "–"


def test_a_strategy_keeps_its_colour_and_mark_whatever_else_is_shown_and_in_every_figure(folder: Path) -> None:
    def drawn(runs: Runs) -> dict[str, tuple[str, str]]:
        curves = {str(x.get_label()): x for x in accuracy_curves(runs).axes[0].lines}
        costs = {str(c.get_label()): c.lines[0] for c in accuracy_against(runs, "train_seconds").axes[0].containers}
        for name, line in costs.items():
            assert (line.get_color(), line.get_marker()) == (curves[name].get_color(), curves[name].get_marker())
        return {name: (str(x.get_color()), str(x.get_marker())) for name, x in curves.items()}

    everything = drawn(chosen(folder))
    assert drawn(chosen(folder, "er-replay,ewc")) == {name: everything[name] for name in ("er-replay", "ewc")}
    better = record("ewc", tasks=3)
    better["accuracy_matrix"] = [[1.0] * 3] * 4  # now the best
    for seed in (0, 1):
        path = folder / f"permuted-mnist/ewc/seed-{seed}/record.json"
        path.unlink()
        path.with_name("environment.json").unlink()
        path.parent.rmdir()
        write_record(folder, better | {"seed": seed})
    runs = chosen(folder)
    assert runs.strategies[0] == "ewc"
    assert drawn(runs) == everything


def test_twenty_four_strategies_look_different(folder: Path) -> None:
    for i in range(24):
        content = record("naive", tasks=3)
        content["strategy"]["name"] = f"s{i:02}"
        write_record(folder, content)
    found = looks(chosen(folder))
    assert len({(look.colour, look.mark, look.dash) for look in found.values()}) == len(found) == 28
    ten = [found[f"s{i:02}"].colour for i in range(10)]
    assert sorted(ten) == list(range(10))  # neighbours in the alphabet never share a colour
    assert len(LIGHT.lines) == len(DARK.lines) == 10


@pytest.mark.parametrize(("paper", "width", "largest"), [("one-column", 3.3, 8.5), ("two-column", 6.9, 9.5)])
def test_figures_for_papers_have_their_width_and_small_letters(
    folder: Path, paper: str, width: float, largest: float
) -> None:
    runs = chosen(folder, "", [], "", paper)
    for figure in (accuracy_curves(runs), accuracy_against(runs, "train_seconds")):
        assert figure.get_figwidth() == pytest.approx(width)
        figure.canvas.draw()
        (axes,) = figure.axes
        legend = axes.get_legend() or figure.legends[0]
        sizes = {text.get_fontsize() for text in (*legend.get_texts(), axes.xaxis.label, *axes.get_yticklabels())}
        assert 6 <= min(sizes) <= max(sizes) <= largest
        box, page_box = legend.get_window_extent(), figure.bbox
        assert box.x0 >= -1
        assert box.x1 <= page_box.x1 + 1
        assert box.y0 >= -1
        label = axes.yaxis.label.get_window_extent()
        assert -1 <= label.y0 <= label.y1 <= page_box.y1 + 1
        assert axes.get_window_extent().height > 0.35 * page_box.height  # the legend leaves room to draw in
    environment = "table*" if paper == "two-column" else "table"
    assert f"\\begin{{{environment}}}" in latex([runs])


def test_certificates_fit_one_column_too(folder: Path) -> None:
    for seed in (0, 1):
        content = record("gpm", seed, 3)
        content["diagnostics"] |= {f"certificate_{key}": [None, 1.0, 2.0] for key in ("promised", "measured")}
        write_record(folder, content)
    assert promised_and_measured(chosen(folder, "", [], "", "one-column")).get_figwidth() == pytest.approx(3.3)


def test_pdf_figures_keep_letters_and_come_out_the_same(folder: Path) -> None:
    runs = chosen(folder)
    one, two = (render(accuracy_curves(runs), "pdf") for _ in range(2))
    assert one == two
    assert one.startswith(b"%PDF")
    assert b"/FontType 3" not in one
    names = {path.suffix for path in write_report(folder, ["pdf"])}
    assert names == {".pdf"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("odg",), "unknown strategy among the records 'odg'; did you mean 'ogd'"),
        (("", ["odg=OGD"]), "unknown strategy among the records 'odg'"),
        (("", ["ogd"]), "'ogd' is no label; write one as name=text"),
        (("", ["ogd=A", "ewc=A"]), "two strategies have one label"),
        (("", [], "acc"), "unknown column 'acc'"),
        (("", [], "", "a4"), "unknown paper 'a4'"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(folder: Path, arguments: tuple[object, ...], said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        chosen(folder, *arguments)


def test_a_benchmark_without_the_chosen_strategies_has_no_section(folder: Path) -> None:
    write_runs(folder, ["gpm"], seeds=1, benchmark="split-mnist", tasks=3)
    write_report(folder, ["md"], Choice(only=("gpm",)))
    assert "## split-mnist" in (folder / "report.md").read_text()
    assert "## permuted-mnist" not in (folder / "report.md").read_text()
    with pytest.raises(UnknownNameError):
        write_report(folder, ["md"], Choice(only=("er-ace",)))
