import json
import math
from pathlib import Path

import numpy as np
import pytest
from fake_records import matrix, record, write_failure, write_record, write_runs

from ong.errors import UserError
from ong.report.migrations import SCHEMA
from ong.report.reading import group, read_runs
from ong.report.records import read_record
from ong.report.runs import flatten


def test_a_record_reads_back_as_written_with_its_environment(tmp_path: Path) -> None:
    content = record("ogd", seed=3)
    read = read_record(write_record(tmp_path, content))
    assert (read.benchmark_name, read.strategy_name, read.seed) == ("permuted-mnist", "ogd", 3)
    np.testing.assert_array_equal(read.matrix.values, matrix("ogd", 3).values)
    assert read.metrics == content["metrics"]
    assert read.timing.train_seconds == content["timing"]["train_seconds"]
    assert read.by_task["memory_bytes"] == content["diagnostics"]["memory_bytes"]
    assert math.isnan(read.by_task["leak"][0])
    assert read.environment["versions"]["python"] == "3.11.7"


def test_null_and_bare_nan_both_stand_for_a_missing_accuracy(tmp_path: Path) -> None:
    rows = record("joint")["accuracy_matrix"]
    with_nan = [[math.nan if x is None else x for x in row] for row in rows]
    path = write_record(tmp_path, record("joint", accuracy_matrix=with_nan))
    assert "NaN" in path.read_text()
    np.testing.assert_array_equal(read_record(path).matrix.values, matrix("joint", 0).values)


def test_diagnostics_that_are_not_one_number_a_task_are_kept_apart(tmp_path: Path) -> None:
    diagnostics = {"leak": [None, 0.1], "ranks": {"fc1": 3}, "short": [1.0], "words": ["a", "b"]}
    read = read_record(write_record(tmp_path, record(tasks=2, diagnostics=diagnostics)))
    assert set(read.by_task) == {"leak"}
    assert read.diagnostics == diagnostics


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"schema": 1, "seed"', "truncated or not JSON"),
        ("[1, 2]", "a JSON object is expected, got list"),
        (json.dumps({"schema": SCHEMA + 1}), f"schema version {SCHEMA + 1}, but this ong reads versions 1 to {SCHEMA}"),
        ('{"schema": true}', "schema version True"),
        ("{}", "schema version None"),
        (json.dumps(record() | {"seed": "three"}), "seed: "),
        (json.dumps(record() | {"strategy": {}}), "strategy has no name"),
        (json.dumps(record() | {"accuracy_matrix": [[0.1, 0.2]]}), r"shape \[T \+ 1, T\]"),
        (json.dumps(record() | {"accuracy_matrix": [[10.0], [93.0]]}), r"fractions in \[0, 1\]"),
        (
            json.dumps(record() | {"benchmark": {"name": "b", "kind": "continuous"}}),
            "did you mean 'continual'",
        ),
        (
            json.dumps(record() | {"benchmark": {"name": "b", "kind": "fischer"}}),
            "kind 'fischer'; did you mean 'fisher'",
        ),
    ],
)
def test_a_broken_record_is_refused_with_its_file_and_the_reason(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(UserError, match=complaint) as refused:
        read_runs(tmp_path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_for_a_folder_and_a_folder_of_runs_for_one_are_told(tmp_path: Path) -> None:
    file = write_record(tmp_path, record())
    with pytest.raises(UserError, match="is a file; give a folder"):
        read_runs(file)
    write_record(tmp_path, record(seed=1))
    with pytest.raises(UserError, match=r"holds 2 runs; give one, such as .*seed-0"):
        read_record(tmp_path)


def test_a_directory_that_is_missing_or_empty_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        read_runs(tmp_path / "runs")
    with pytest.raises(UserError, match=r"no record\.json under it; make one with `ong run"):
        read_runs(tmp_path)


def test_failures_alone_make_no_report_but_are_named(tmp_path: Path) -> None:
    write_failure(tmp_path, "ogd", 0)
    with pytest.raises(UserError, match="1 failed, the first: the loss became NaN"):
        read_runs(tmp_path)


def test_siblings_of_the_same_seed_fill_in_intransigence_and_recovered(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "joint", "scratch", "ogd"], seeds=2)
    (runs,) = read_runs(tmp_path)
    for seed, read in enumerate(runs.of("ogd")):
        acc = {name: matrix(name, seed).after[-1].mean() for name in ("naive", "joint", "ogd")}
        gap = np.diagonal(matrix("scratch", seed).after) - np.diagonal(matrix("ogd", seed).after)
        assert read.metrics["intransigence"] == pytest.approx(gap.mean(), abs=1e-12)
        expected = (acc["ogd"] - acc["naive"]) / (acc["joint"] - acc["naive"])
        assert read.metrics["recovered"] == pytest.approx(expected, abs=1e-9)  # a ratio of differences
    assert [r.metrics["recovered"] for r in runs.of("naive")] == [0.0, 0.0]
    assert [r.metrics["recovered"] for r in runs.of("joint")] == [1.0, 1.0]


def test_a_sibling_of_another_seed_or_benchmark_does_not_count(tmp_path: Path) -> None:
    write_record(tmp_path, record("ogd", seed=0))
    write_record(tmp_path, record("naive", seed=1))
    write_record(tmp_path, record("joint", seed=0))
    write_record(tmp_path, record("naive", seed=0, benchmark="rotated-mnist"))
    permuted, rotated = read_runs(tmp_path)
    assert (permuted.benchmark, rotated.benchmark) == ("permuted-mnist", "rotated-mnist")
    assert permuted.of("ogd")[0].metrics["recovered"] is None


def test_metrics_of_other_programs_survive_and_ours_come_from_the_matrix(tmp_path: Path) -> None:
    write_record(tmp_path, record("ogd", metrics={"ACC": 0.1, "stability": 0.7}))
    read = read_runs(tmp_path)[0].records[0]
    assert read.metrics["ACC"] == pytest.approx(matrix("ogd", 0).after[-1].mean(), abs=1e-12)
    assert read.metrics["stability"] == 0.7


def test_failed_runs_are_listed_unless_they_were_repeated_and_finished(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=1)
    write_failure(tmp_path, "ogd", 4)
    write_failure(tmp_path, "naive", 0)  # lies beside a record
    (runs,) = read_runs(tmp_path)
    assert [(f.strategy, f.seed, f.task, f.step) for f in runs.failures] == [("ogd", 4, 3, 512)]


def test_a_benchmark_whose_every_run_failed_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive"], seeds=5)
    write_failure(tmp_path, "ogd", 4, benchmark="split-mnist")
    (runs,) = read_runs(tmp_path)
    assert runs.failures == ()
    assert runs.notes() == ["No run of split-mnist finished; 1 failed, the first (ogd, seed 4): the loss became NaN."]


def test_runs_that_have_not_ended_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seed in (("naive", 5), ("naive", 6)):
        (tmp_path / "permuted-mnist" / name / f"seed-{seed}").mkdir(parents=True)
    (tmp_path / "split-mnist" / "ogd" / "seed-0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no record\.json under it \(3 not finished: the same command goes on"):
        read_runs(tmp_path)
    write_runs(tmp_path, ["naive"], seeds=5)
    write_record(tmp_path, record("naive", seed=0, benchmark="rotated-mnist"))
    permuted, rotated = read_runs(tmp_path)
    assert permuted.notes() == [
        "Not finished of split-mnist: ogd (seed 0); the same command goes on with them.",
        "Not finished: naive (seed 5), naive (seed 6); the same command goes on with them.",
    ]
    assert rotated.notes() == ["Fewer than 5 seeds: naive (1)."]
    monkeypatch.chdir(tmp_path / "permuted-mnist" / "naive")
    assert "Not finished: naive (seed 5)" in read_runs(".")[0].notes()[0]


def test_needs_may_be_one_string(tmp_path: Path) -> None:
    content = record("naive")
    content["strategy"]["needs"] = "stored examples"
    assert read_record(write_record(tmp_path, content)).needs == ("stored examples",)


def test_strategies_are_ordered_by_accuracy(tmp_path: Path) -> None:
    write_runs(tmp_path, ["naive", "ong-prior", "ogd", "gpm"], seeds=2)
    assert read_runs(tmp_path)[0].strategies == ["ong-prior", "gpm", "ogd", "naive"]


def test_the_same_run_twice_is_refused_naming_both_files(tmp_path: Path) -> None:
    one = write_record(tmp_path / "a", record())
    two = write_record(tmp_path / "b", record())
    with pytest.raises(UserError, match="seed 0; report them from separate directories") as refused:
        read_runs(tmp_path)
    assert str(one) in str(refused.value)
    assert str(two) in str(refused.value)


def test_runs_with_different_numbers_of_tasks_are_not_averaged(tmp_path: Path) -> None:
    write_record(tmp_path, record(seed=0, tasks=10))
    write_record(tmp_path, record(seed=1, tasks=5))
    with pytest.raises(UserError, match=r"5 tasks, but .* has 10"):
        read_runs(tmp_path)


def test_notes_name_few_seeds_tuning_seeds_and_recipes_that_differ(tmp_path: Path) -> None:
    write_record(tmp_path, record("naive", seed=0))
    other = record("naive", seed=1000)
    other["strategy"]["optimizer"]["lr"] = 0.3
    other["benchmark"]["training"]["epochs"] = 5
    other["benchmark"]["stream"]["seed"] = 1000  # may follow the run's seed
    write_record(tmp_path, other)
    assert read_runs(tmp_path)[0].notes() == [
        "Fewer than 5 seeds: naive (2).",
        "Tuning seeds (≥ 1000) are not for reporting: 1000.",
        "The benchmark's recipe differs between records: training.epochs = 2 or 5.",
        "The recipe of naive differs between seeds: optimizer.lr = 0.1 or 0.3.",
    ]


def test_five_seeds_of_one_recipe_need_no_note(tmp_path: Path) -> None:
    assert read_runs(write_runs(tmp_path, ["naive", "ogd"], seeds=5))[0].notes() == []


def test_records_in_memory_group_like_those_on_disk(tmp_path: Path) -> None:
    on_disk = read_runs(write_runs(tmp_path, ["naive", "joint"], seeds=2))
    again = group(reversed([r for runs in on_disk for r in runs.records]))
    assert [vars(runs) for runs in again] == [vars(runs) for runs in on_disk]


def test_flatten_writes_keys_as_the_command_line_does() -> None:
    recipe = {"plugins": [{"use": "a:B", "damping": 0.1}], "model": {"hidden": [100, 100]}, "lr": 1}
    assert flatten(recipe) == {
        "plugins.0.use": "a:B",
        "plugins.0.damping": 0.1,
        "model.hidden": [100, 100],
        "lr": 1,
    }
