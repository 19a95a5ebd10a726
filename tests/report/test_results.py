"""``ong.load``: the same numbers as the records and reports, as tables, arrays and figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_records import matrix, record, write_record, write_runs
from matplotlib.axes import Axes
from scipy import stats

import ong
from ong.errors import UnknownNameError, UserError
from ong.metrics import average_accuracy_so_far
from ong.report.figures import LIGHT
from ong.report.records import read_record
from ong.report.write import write_report

NAMES = ["naive", "ogd", "er-replay", "joint"]


@pytest.fixture
def results(tmp_path: Path) -> ong.Results:
    return ong.load(write_runs(tmp_path, NAMES, seeds=3, tasks=4))


def test_the_table_has_means_and_scipys_intervals(results: ong.Results) -> None:
    accs = [matrix("ogd", seed, 4).after[-1].mean() for seed in range(3)]
    row = results.table().loc["ogd", "ACC"]
    low, high = stats.t.interval(0.95, df=2, loc=np.mean(accs), scale=stats.sem(accs))
    assert row["mean"] == pytest.approx(np.mean(accs), abs=1e-12)
    assert row["half_width"] == pytest.approx((high - low) / 2, abs=1e-12)
    assert row["count"] == 3
    assert len(results.runs()) == 12
    assert list(results.table().index) == results.strategies


def test_a_matrix_is_that_of_the_record_or_the_mean_over_seeds(results: ong.Results) -> None:
    np.testing.assert_array_equal(results.matrix("ogd", 1), matrix("ogd", 1, 4).values)
    mean = np.mean([matrix("ogd", seed, 4).values for seed in range(3)], axis=0)
    np.testing.assert_allclose(results.matrix("ogd"), mean, atol=1e-12)
    results.matrix("ogd", 1)[0, 0] = 9.0
    assert results.matrix("ogd", 1)[0, 0] <= 1.0  # a copy
    assert results.record("ogd", 1).seed == 1
    assert results.select("ogd", "ogd").strategies == ["ogd"]
    assert results.record("ogd", 1).strategy_name == "ogd"
    with pytest.raises(UnknownNameError, match="did you mean 'ogd'"):
        results.matrix("odg")
    with pytest.raises(UserError, match="has no run of seed 7; it has 0, 1, 2"):
        results.matrix("ogd", 7)


def test_curves_are_average_accuracy_over_the_tasks_seen(results: ong.Results) -> None:
    curves = results.curves()
    expected = np.mean([average_accuracy_so_far(matrix("ogd", seed, 4)) for seed in range(3)], axis=0)
    ogd = curves[curves["strategy"] == "ogd"]
    assert ogd["tasks_seen"].tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(ogd["mean"], expected, atol=1e-12)


def test_differences_are_paired(results: ong.Results) -> None:
    ogd, naive = ([matrix(name, seed, 4).after[-1].mean() for seed in range(3)] for name in ("ogd", "naive"))
    found = results.compare("naive").loc["ogd", "ACC"]
    interval = stats.ttest_rel(ogd, naive).confidence_interval(0.95)
    assert found["mean"] == pytest.approx(np.subtract(ogd, naive).mean(), abs=1e-12)
    assert found["half_width"] == pytest.approx((interval.high - interval.low) / 2, abs=1e-12)


def test_selected_strategies_keep_their_order_and_colours_and_take_labels(results: ong.Results) -> None:
    def colours(of: ong.Results) -> dict[str, str]:
        return {str(line.get_label()): str(line.get_color()) for line in of.plot_curves().lines}

    everything = colours(results)
    some = results.select("ogd", "er-replay", labels={"ogd": "OGD ($ours$)"})
    assert some.strategies == ["ogd", "er-replay"]
    assert colours(some) == {"OGD (\\$ours\\$)": everything["ogd"], "er-replay": everything["er-replay"]}
    assert set(everything.values()) <= {*LIGHT.lines, LIGHT.ink}
    with pytest.raises(UnknownNameError, match="did you mean 'ogd'"):
        results.select("ogdd")


def test_figures_are_drawn_into_given_axes(results: ong.Results) -> None:
    from matplotlib.figure import Figure

    left, right = Figure().subplots(1, 2)
    assert results.plot_curves(left) is left
    assert results.plot_matrix("ogd", right) is right
    np.testing.assert_allclose(right.images[0].get_array(), results.matrix("ogd"))
    axes = results.plot_against("memory_bytes")
    assert isinstance(axes, Axes)
    assert axes.get_xscale() == "log"
    with pytest.raises(UserError, match="no record has certificates"):
        results.plot_certificates()
    with pytest.raises(UnknownNameError, match="did you mean 'memory_bytes'"):
        results.plot_against("memory")


def test_several_benchmarks_are_chosen_by_name(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=1, tasks=3)
    write_runs(tmp_path, ["naive"], seeds=1, benchmark="split-mnist", tasks=5)
    results = ong.load(tmp_path)
    assert list(results) == results.benchmarks == ["permuted-mnist", "split-mnist"]
    assert results["split-mnist"].matrix("naive").shape == (6, 5)
    with pytest.raises(UserError, match=r"choose one, as in results\['permuted-mnist'\]"):
        results.table()
    with pytest.raises(UnknownNameError, match="did you mean 'split-mnist'"):
        results["split-mnits"]


def test_every_matrix_comes_back_from_npz_and_csv(tmp_path: Path, results: ong.Results) -> None:
    results.to_npz(tmp_path / "all.npz")
    with np.load(tmp_path / "all.npz") as arrays:
        assert len(arrays.files) == 12
        np.testing.assert_array_equal(arrays["permuted-mnist/joint/seed-2"], matrix("joint", 2, 4).values)
    written = write_report(tmp_path, ["npz", "matrices"])
    assert [path.name for path in written] == ["matrices.npz", "matrices.csv"]
    assert (tmp_path / "matrices.npz").read_bytes() == (tmp_path / "all.npz").read_bytes()
    frame = pd.read_csv(tmp_path / "matrices.csv")
    ogd = frame[(frame["strategy"] == "ogd") & (frame["seed"] == 1)]
    back = ogd.pivot_table(index="trained", columns="task", values="accuracy").to_numpy()
    np.testing.assert_array_equal(back, matrix("ogd", 1, 4).values)
    joint = frame[(frame["strategy"] == "joint") & (frame["seed"] == 0)]
    assert sorted(set(joint["trained"])) == [-1, 3]  # what was not measured is left out


def test_what_has_no_matrix_writes_none_and_what_is_no_name_is_told(tmp_path: Path, results: ong.Results) -> None:
    with pytest.raises(UnknownNameError, match="unknown benchmark among the records '0'"):
        results[0]  # type: ignore[index]
    histories = ong.load(Path(__file__).parents[2] / "results" / "deep-linear")
    with pytest.raises(UserError, match="deep-linear: no sequence of tasks, so there is no matrix to write"):
        histories.to_npz(tmp_path / "none.npz")
    assert not (tmp_path / "none.npz").exists()


def test_results_and_records_show_themselves_in_jupyter(tmp_path: Path) -> None:
    content = record("ogd", tasks=3)
    content["strategy"]["name"] = "<b>ogd"
    (tmp_path / "one").mkdir()
    path = write_record(tmp_path / "one", record("ogd", tasks=3))
    shown = read_record(path)._repr_html_()
    assert "permuted-mnist · ogd · seed 0" in shown
    assert f">{matrix('ogd', 0, 3).values[1, 0]:.2f}<".replace(">0", ">") in shown
    assert shown.count("<td style=") == 12
    import json

    path.write_text(json.dumps(content))
    for text in (read_record(path)._repr_html_(), ong.load(tmp_path)._repr_html_()):
        assert "&lt;b&gt;ogd" in text
        assert "<b>ogd" not in text
