import math
from pathlib import Path

import numpy as np
import pytest
from fake_records import matrix, record, write_record, write_runs
from rich.console import Console
from scipy import stats

from ong.metrics import METRICS
from ong.report.columns import column, number
from ong.report.intervals import Estimate, t_interval
from ong.report.latex import latex
from ong.report.reading import read_runs
from ong.report.records import read_record
from ong.report.runs import Runs
from ong.report.tables import best, seeds_frame, seeds_text, summary_frame, summary_text, task_frame
from ong.report.terminal import print_record, print_summary

STRATEGIES = ["naive", "ogd", "er-replay", "joint"]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return read_runs(write_runs(tmp_path, STRATEGIES, seeds=3))[0]


def _printed(width: int, *records: object) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_summary(records, console)  # type: ignore[arg-type]
    return console.export_text()


def test_interval_by_hand() -> None:
    # mean 2, s = 1, n = 3, t_{.975, 2} = 4.302653: half-width 4.302653 / √3
    assert t_interval([1.0, 2.0, 3.0]).half_width == pytest.approx(4.302653 / math.sqrt(3), abs=1e-6)


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(0).normal(size=7)
    low, high = stats.t.interval(0.95, df=6, loc=values.mean(), scale=stats.sem(values))
    estimate = t_interval(values.tolist())
    assert estimate.mean - estimate.half_width == pytest.approx(low, abs=1e-12)
    assert estimate.mean + estimate.half_width == pytest.approx(high, abs=1e-12)


def test_interval_of_one_value_is_the_value_and_missing_values_do_not_count() -> None:
    one = t_interval([math.nan, 0.5])
    assert (one.mean, one.count) == (0.5, 1)
    assert math.isnan(one.half_width)
    assert t_interval([math.nan]).count == 0


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9354, "0.935"), (-0.0081, "−0.008"), (-0.0001, "0.000"), (math.nan, "–"), (1.0, "1.000")],
)
def test_numbers_have_a_true_minus_and_no_negative_zero(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("memory_bytes", 0, "0 B"),
        ("memory_bytes", 999, "999 B"),
        ("memory_bytes", 1_000, "1.0 kB"),
        ("memory_bytes", 6_280_000, "6.3 MB"),
        ("memory_bytes", 4.8e9, "4.8 GB"),
        ("memory_bytes", 7e12, "7000 GB"),
        ("train_seconds", 14.23, "14.2"),
        ("train_seconds", 1234.6, "1235"),
        ("leak", 4.87e-7, "4.9e−07"),
        ("leak", 0.0, "0"),
    ],
)
def test_costs_are_written_in_their_units(key: str, value: float, text: str) -> None:
    assert column(key).write(value) == text


def test_best_follows_the_direction_and_keeps_ties_as_written() -> None:
    means = {"a": 0.9001, "b": 0.8999, "c": 0.1, "d": math.nan}
    assert column("ACC").best(means) == {"a", "b"}
    assert column("forgetting").best(means) == {"c"}
    assert column("memory_bytes").best(means) == set()


def test_every_seed_has_its_row_with_the_values_of_its_record(runs: Runs) -> None:
    frame = seeds_frame(runs)
    assert list(zip(frame["strategy"], frame["seed"], strict=True)) == [
        (strategy, seed) for strategy in runs.strategies for seed in range(3)
    ]
    content = record("ogd", seed=1)
    row = frame[(frame["strategy"] == "ogd") & (frame["seed"] == 1)].iloc[0]
    assert row["ACC"] == pytest.approx(content["metrics"]["ACC"], abs=1e-12)
    assert row["train_seconds"] == pytest.approx(sum(content["timing"]["train_seconds"]))
    assert row["memory_bytes"] == 4_800_000
    assert row["leak"] == pytest.approx(np.mean(content["diagnostics"]["leak"][1:]))
    assert frame.set_index("strategy").loc["er-replay", "needs"].tolist() == ["stored examples"] * 3


def test_summary_is_the_interval_of_the_seeds(runs: Runs) -> None:
    accs = [matrix("ogd", seed).after[-1].mean() for seed in range(3)]
    expected = t_interval(accs)
    row = summary_frame(runs).loc["ogd"]
    assert row["ACC", "mean"] == pytest.approx(expected.mean, abs=1e-12)
    assert row["ACC", "half_width"] == pytest.approx(expected.half_width, abs=1e-12)
    assert row["ACC", "count"] == 3
    assert list(dict.fromkeys(summary_frame(runs).columns.get_level_values(0)))[: len(METRICS)] == list(METRICS)


def test_summary_text_shows_undefined_as_a_dash_and_what_a_method_needs(runs: Runs) -> None:
    text = summary_text(runs).set_index("Strategy")
    assert text.loc["joint", "BWT"] == "–"
    assert text.loc["joint", "Recovered"] == "1.000 ± 0.000"
    assert text["Needs"].to_dict() == {
        "naive": "", "ogd": "", "er-replay": "stored examples", "joint": "all tasks at once"
    }  # fmt: skip
    assert "Intransigence" not in text  # no strategy has it without scratch
    assert "Forgetting (first)" not in text  # it is −BWT


def test_summary_text_says_when_a_mean_is_over_fewer_seeds(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "ogd"], seeds=3)
    write_record(tmp_path, record("joint", seed=0))
    text = summary_text(read_runs(tmp_path)[0]).set_index("Strategy")
    assert text.loc["ogd", "Recovered"].endswith(" (n=1)")
    assert "n=" not in text.loc["ogd", "ACC"]


def test_one_seed_is_printed_without_an_interval(tmp_path: Path) -> None:
    text = summary_text(read_runs(write_runs(tmp_path, ["naive"], seeds=1))[0])
    assert text.loc[0, "ACC"] == number(matrix("naive", 0).after[-1].mean())
    assert "Needs" not in text  # nothing to say


def test_references_do_not_compete(runs: Runs) -> None:
    assert runs.strategies[0] == "joint"
    assert best(runs, column("ACC")) == {"er-replay"}


def test_training_on_all_tasks_at_once_is_a_reference_under_any_name(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "joint"], seeds=1)
    content = record("joint", seed=0)
    content["strategy"]["name"] = "joint-adam"
    write_record(tmp_path, content)
    (found,) = read_runs(tmp_path)
    assert found.references == ["joint", "joint-adam"]
    assert best(found, column("ACC")) == {"naive"}


@pytest.mark.parametrize(("dataset", "shown"), [("mnist-10k", True), ("digits", False)])
def test_runs_on_other_data_are_no_siblings(tmp_path: Path, dataset: str, shown: bool) -> None:
    write_runs(tmp_path, ["naive", "ogd"], seeds=1)
    content = record("joint", seed=0)
    content["benchmark"]["dataset"] = dataset
    content["benchmark"]["summary"] = "in other words"
    write_record(tmp_path, content)
    assert ("Recovered" in summary_text(read_runs(tmp_path)[0])) == shown


def test_a_latex_table_of_uneven_seeds_counts_them(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "ogd"], seeds=2)
    assert "Seeds" not in latex(read_runs(tmp_path))
    write_record(tmp_path, record("ewc", seed=0))
    rows = [line.split("&")[:2] for line in latex(read_runs(tmp_path)).splitlines() if "&" in line]
    assert {left.strip(): right.strip() for left, right in rows} == {
        "Strategy": "Seeds",
        "naive": "2",
        "ogd": "2",
        "ewc": "1",
    }


def test_seeds_text_has_a_row_a_run(runs: Runs) -> None:
    assert len(seeds_text(runs)) == len(runs.records)


def test_task_frame_is_the_mean_over_seeds_of_columns_of_r(runs: Runs) -> None:
    matrices = [matrix("ogd", seed) for seed in range(3)]
    frame = task_frame(runs, "ogd")
    np.testing.assert_allclose(frame["before"], np.mean([m.before for m in matrices], axis=0), atol=1e-12)
    np.testing.assert_allclose(frame["learned"], np.mean([np.diagonal(m.after) for m in matrices], axis=0), atol=1e-12)
    np.testing.assert_allclose(frame["final"], np.mean([m.after[-1] for m in matrices], axis=0), atol=1e-12)
    assert frame["memory_bytes"].tolist() == record("ogd")["diagnostics"]["memory_bytes"]
    assert "leak" not in task_frame(runs, "naive")  # null for every task


def test_an_estimate_without_interval_or_value_is_written_short() -> None:
    assert column("ACC").text(Estimate(0.5, math.nan, 1)) == "0.500"
    assert column("ACC").text(Estimate(0.5, 0.01, 3)) == "0.500 ± 0.010"
    assert column("ACC").text(Estimate(math.nan, math.nan, 0)) == "–"


@pytest.mark.parametrize("width", [60, 80, 100, 140, 200])
def test_the_printed_summary_fits_the_terminal_and_never_cuts_a_number(runs: Runs, width: int) -> None:
    text = _printed(width, *runs.records)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for strategy in STRATEGIES:
        assert summary_text(runs).set_index("Strategy").loc[strategy, "ACC"] in text


def test_a_wide_terminal_shows_every_column(runs: Runs) -> None:
    text = _printed(250, *runs.records)
    assert all(heading in text for heading in summary_text(runs).columns)
    assert "not shown" not in text


def test_a_narrow_terminal_names_the_columns_it_leaves_out(runs: Runs) -> None:
    text = _printed(80, *runs.records)
    table, _, left_out = text.partition("not shown: ")
    named = " ".join(left_out.split()).split(", ")
    assert named
    assert {*named} == {heading for heading in summary_text(runs).columns if heading not in table}


def test_a_printed_record_has_every_accuracy_metric_and_formula(tmp_path: Path) -> None:
    content = record("ong-prior")
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_record(read_record(write_record(tmp_path, content)), console)
    text = console.export_text()
    assert all(number(x) in text for row in content["accuracy_matrix"] for x in row)
    assert all(name in text and metric.formula in text for name, metric in METRICS.items())
    assert "before" in text
    assert "9.6 MB" in text
    assert "strategy.optimizer.lr" in text


def test_markup_in_a_name_is_printed_as_it_stands(tmp_path: Path) -> None:
    content = record("naive")
    content["strategy"]["name"] = "[red]x"
    assert "[red]x" in _printed(100, read_record(write_record(tmp_path, content)))
