"""Accuracy against bytes and seconds."""

from pathlib import Path

import numpy as np
import pytest
from fake_records import matrix, record, write_record, write_runs
from matplotlib.axes import Axes

from ong.metrics import average_accuracy
from ong.report.costs import accuracy_against, costs
from ong.report.figures import accuracy_curves
from ong.report.intervals import t_interval
from ong.report.reading import read_runs
from ong.report.runs import Runs, unsized
from ong.report.write import write_report

SIZES = {"ogd": (1, 4, 2), "er-replay": (1, 8)}  # MB


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    write_runs(tmp_path, ["naive", "ewc", "joint"], seeds=3)
    for strategy, sizes in SIZES.items():
        for size in sizes:
            for seed in range(3):
                content = record(strategy, seed + 100 * size)
                content |= {"seed": seed}
                content["strategy"]["name"] = f"{strategy}@{size}MB"
                content["strategy"]["memory"] = {"budget": size * 10**6, "knob": "plugins.0.n", "value": 10 * size}
                content["diagnostics"]["memory_bytes"] = [size * 10**6 - 1000] * 10
                write_record(tmp_path, content)
    return read_runs(tmp_path)[0]


def lines(axes: Axes) -> dict[str, np.ndarray]:
    """The points of each legend entry that is a strategy's."""
    containers = {c.get_label(): c.lines[0].get_xydata() for c in axes.containers}
    return {str(name): np.asarray(points) for name, points in containers.items()}


def test_budgets_of_a_strategy_are_one_line_of_their_means_by_bytes(runs: Runs) -> None:
    axes = accuracy_against(runs, "memory_bytes").axes[0]
    assert axes.get_xscale() == "log"
    drawn = lines(axes)
    assert set(drawn) == {"ogd", "er-replay", "ewc"}  # naive keeps nothing, joint is a reference
    for strategy, sizes in SIZES.items():
        expected = [
            (s * 10**6 - 1000, np.mean([average_accuracy(matrix(strategy, seed + 100 * s)) for seed in range(3)]))
            for s in sorted(sizes)
        ]
        np.testing.assert_allclose(drawn[strategy], expected, rtol=1e-12)
    joint = t_interval(average_accuracy(matrix("joint", seed)) for seed in range(3))
    (level,) = [line for line in axes.lines if line.get_label() == "joint"]
    assert level.get_ydata()[0] == pytest.approx(joint.mean)
    assert [text.get_text() for text in axes.get_xticklabels()][-1].endswith(" MB")


def test_against_seconds_every_run_that_trained_has_a_point(runs: Runs) -> None:
    drawn = lines(accuracy_against(runs, "train_seconds").axes[0])
    assert {name: len(points) for name, points in drawn.items()} == {"ogd": 3, "er-replay": 2, "ewc": 1, "naive": 1}
    seconds = np.mean([sum(r.timing.train_seconds) for r in runs.of("naive")])  # type: ignore[arg-type]
    assert drawn["naive"][0, 0] == pytest.approx(seconds)


def test_a_single_point_is_no_figure(tmp_path: Path) -> None:
    (alone,) = read_runs(write_runs(tmp_path, ["ewc", "joint"], seeds=2))
    assert costs(alone) == []  # type: ignore[arg-type]


def test_curves_and_matrices_show_the_largest_budget_only(runs: Runs) -> None:
    labels = accuracy_curves(runs).axes[0].get_legend_handles_labels()[1]
    assert set(labels) == {"naive", "ewc", "joint", "ogd@4MB", "er-replay@8MB"}
    assert {unsized(name) for name in runs.strategies} == {"naive", "ewc", "joint", "ogd", "er-replay"}
    assert unsized("ogd@1.5MB-long") == "ogd-long"


def test_a_report_has_both_figures_in_every_form(runs: Runs, tmp_path: Path) -> None:
    written = {path.name for path in write_report(tmp_path)}
    both = {"accuracy-memory-bytes", "accuracy-train-seconds"}
    assert {f"{name}.{form}" for name in both for form in ("png", "svg")} <= written
    assert "matrix-ogd@4MB.png" in written
    assert "matrix-ogd-2MB.png" not in written
    markdown, page = ((tmp_path / f"report.{form}").read_text(encoding="utf-8") for form in ("md", "html"))
    for name in both:
        assert f"(figures/{name}.png)" in markdown
    for title in ("Accuracy against memory", "Accuracy against training time"):
        assert f"### {title}" in markdown
        assert f"<h2>{title}</h2>" in page
