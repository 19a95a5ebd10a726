import dataclasses
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from fake_records import matrix, record, write_record, write_runs

from ong.report.certificates import promised_and_measured
from ong.report.choice import PAPERS, Choice, Paper
from ong.report.costs import accuracy_against
from ong.report.figures import LIGHT, accuracy_curves, legend, new_axes, render
from ong.report.formats.figures import figure_path
from ong.report.heat_maps import heat_map
from ong.report.intervals import t_interval
from ong.report.markdown import markdown
from ong.report.reading import read_runs
from ong.report.runs import Runs
from ong.report.write import write_report


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return read_runs(write_runs(tmp_path, ["naive", "ogd", "joint", "scratch"], seeds=3))[0]


def test_heat_map_shows_the_mean_of_r_on_the_scale_from_0_to_1(runs: Runs) -> None:
    axes = heat_map(runs, "ogd").axes[0]
    image = axes.images[0]
    expected = np.mean([matrix("ogd", seed).values for seed in range(3)], axis=0)
    np.testing.assert_allclose(image.get_array(), expected, atol=1e-12)
    assert image.get_clim() == (0.0, 1.0)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["before", *map(str, range(10))]
    assert [text.get_text() for text in axes.texts][:2] == [f"{x:.2f}"[1:] for x in expected[0, :2]]


def test_heat_map_leaves_rows_without_a_measurement_blank(runs: Runs) -> None:
    axes = heat_map(runs, "joint").axes[0]
    mask = np.ma.getmaskarray(axes.images[0].get_array())
    assert mask[1:-1].all()
    assert not mask[[0, -1]].any()
    assert [text.get_text() for text in axes.texts].count("–") == 9 * 10


def test_heat_map_of_many_tasks_has_no_numbers_in_its_cells(tmp_path: Path) -> None:
    runs = read_runs(write_runs(tmp_path, ["naive"], seeds=1, tasks=25))[0]
    assert heat_map(runs, "naive").axes[0].texts[:] == []


def test_curves_are_average_accuracy_over_tasks_seen(runs: Runs) -> None:
    axes = accuracy_curves(runs).axes[0]
    lines = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert set(lines) == {"naive", "ogd", "joint"}  # scratch has no sequence
    for strategy in ("naive", "ogd"):
        r = np.mean([matrix(strategy, seed).after for seed in range(3)], axis=0)
        expected = [r[t, : t + 1].mean() for t in range(10)]
        np.testing.assert_allclose(lines[strategy], expected, atol=1e-12)
    joint = np.mean([matrix("joint", seed).after[-1].mean() for seed in range(3)])
    np.testing.assert_allclose(lines["joint"], joint, atol=1e-12)


def test_band_is_the_interval_over_seeds(runs: Runs) -> None:
    axes = accuracy_curves(runs).axes[0]
    last = t_interval([float(matrix("ogd", seed).after[-1].mean()) for seed in range(3)])
    band = axes.collections[0].get_paths()[0].vertices  # ogd is drawn first, being better than naive
    at_end = band[band[:, 0] == 10, 1]
    assert at_end.min() == pytest.approx(last.mean - last.half_width, abs=1e-12)
    assert at_end.max() == pytest.approx(last.mean + last.half_width, abs=1e-12)


def test_one_seed_has_no_band(tmp_path: Path) -> None:
    runs = read_runs(write_runs(tmp_path, ["naive"], seeds=1))[0]
    assert len(accuracy_curves(runs).axes[0].collections) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_a_legend_of_many_names_leaves_the_axes_their_size(paper: Paper) -> None:
    boxes = []
    for count in (3, 40):
        figure, axes = new_axes((paper.width, paper.height), LIGHT, paper)
        names = [f"strategy-{number}" for number in range(count)]
        for name in names:
            axes.plot([0, 1], label=name)
        legend(axes, names, LIGHT, paper)
        render(figure, "png")
        boxes.append(axes.get_position().size * figure.get_size_inches())
    assert (boxes[1] > 0.85 * boxes[0]).all()


@pytest.mark.parametrize("form", ["png", "svg"])
def test_the_same_records_give_the_same_bytes(runs: Runs, form: str) -> None:
    one, two = (render(heat_map(runs, "ogd"), form) for _ in range(2))  # type: ignore[arg-type]
    assert one == two
    one, two = (render(accuracy_curves(runs), form) for _ in range(2))  # type: ignore[arg-type]
    assert one == two
    assert b"date" not in one.lower()


def test_drawing_leaves_matplotlibs_settings_as_they_were(runs: Runs) -> None:
    before = dict(mpl.rcParams)
    render(accuracy_curves(runs), "svg")
    assert dict(mpl.rcParams) == before


def test_more_strategies_than_colours_still_differ(tmp_path: Path) -> None:
    from fake_records import record, write_record

    for i in range(9):
        content = record("naive")
        content["strategy"]["name"] = f"s{i}"
        write_record(tmp_path, content)
    runs = dataclasses.replace(read_runs(tmp_path)[0], choice=Choice(tuple(f"s{i}" for i in range(9))))
    lines = accuracy_curves(runs).axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 9


@pytest.mark.parametrize("tasks", [1, 2])
def test_very_short_streams_draw(tmp_path: Path, tasks: int) -> None:
    runs = read_runs(write_runs(tmp_path, ["naive", "joint"], seeds=2, tasks=tasks))[0]
    assert render(accuracy_curves(runs), "png").startswith(b"\x89PNG")
    assert render(heat_map(runs, "joint"), "svg").startswith(b"<?xml")


def test_of_many_strategies_the_best_and_naive_are_drawn_and_the_report_says_so(tmp_path: Path) -> None:
    names = [f"s{place:02d}" for place in range(10)]
    for place, name in enumerate([*names, "naive", "s00@4MB"]):
        content = record("naive", 0)
        content["strategy"] |= {"name": name}
        content["strategy"] |= {"memory": {"budget": 4_000_000}} if "@" in name else {}
        rows = np.array(content["accuracy_matrix"], dtype=float)
        content["accuracy_matrix"] = (rows * (1 - 0.02 * place)).tolist()
        content["diagnostics"] |= {"certificate_measured": [0.1] * 10, "certificate_promised": [0.2] * 10}
        write_record(tmp_path, content)
    write_runs(tmp_path, ["joint"], seeds=1)
    runs = read_runs(tmp_path)[0]
    best = [*names[:7], "naive"]
    assert accuracy_curves(runs).axes[0].get_legend_handles_labels()[1] == [*best, "joint"]
    assert set(accuracy_against(runs, "train_seconds").axes[0].get_legend_handles_labels()[1]) == {*best, "joint"}
    assert [text.get_text() for text in promised_and_measured(runs).legends[0].get_texts()][:-3] == best
    said = "At most 8 lines are drawn, the best by ACC and naive; `--only` chooses others."
    assert said in markdown([runs], lambda runs, name: "figure.png")
    chosen = dataclasses.replace(runs, choice=Choice(tuple(runs.names)))
    assert len(accuracy_curves(chosen).axes[0].get_legend_handles_labels()[1]) == 13
    assert said not in markdown([chosen], lambda runs, name: "figure.png")


def test_the_axis_holds_the_whole_of_each_band(tmp_path: Path) -> None:
    runs = read_runs(write_runs(tmp_path, ["naive", "ogd"], seeds=3))[0]
    axes = accuracy_curves(runs).axes[0]
    low, high = axes.get_ylim()
    for band in axes.collections:
        ends = band.get_paths()[0].vertices[:, 1]
        assert ends.min() >= low
        assert ends.max() <= high


def test_no_two_strategies_share_a_file(runs: Runs) -> None:
    names = ["ogd@20kB", "ogd-20kB", "ogd.20kB", "ogd_20kB", "ogd+20kB"]
    assert len({figure_path(runs, name, several=False) for name in names}) == len(names)


def test_svg_alone_can_be_asked_for(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=1)
    assert {path.suffix for path in write_report(tmp_path, ["svg"])} == {".svg"}
