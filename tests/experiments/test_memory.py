"""Strategies sized to a budget of memory."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ong.cli import main
from ong.errors import UserError
from ong.experiments.jobs import finished, perform
from ong.experiments.memory import DoesNotFitError, _largest, budget_name, read_budgets
from ong.experiments.plan import plan
from ong.experiments.recipes import recipe_path
from ong.experiments.sweep_file import sweep_jobs
from ong.experiments.tune import tune
from ong.experiments.tune_problem import Asked
from ong.experiments.tune_write import write_block

SETTINGS = {"training.epochs": 1, "stream.tasks": 3}


def planned(strategies: list[str] | None, budgets: str, out: Path, **options: Any) -> list[Any]:
    changes = SETTINGS | options.pop("changes", {})
    return plan("permuted-digits", strategies, [0], changes, out=out, memory=read_budgets(budgets), **options)


def test_sizes_are_read_and_named_alike() -> None:
    assert read_budgets("500kB, 1MB,1.5MB,2GB,1000kB") == [500_000, 1_000_000, 1_500_000, 2_000_000_000]
    assert [budget_name(b) for b in (500_000, 1_000_000, 1_500_000, 2 * 10**9)] == ["500kB", "1MB", "1.5MB", "2GB"]
    for wrong in ("4", "4 mb", "-4MB", "0MB", "four MB", "1MB,,2MB", ""):
        with pytest.raises(UserError, match=r"give a size in kB, MB or GB, such as 4MB"):
            read_budgets(wrong)


@given(
    fixed=st.integers(0, 5000),
    each=st.integers(1, 3000),
    most=st.integers(1, 5000),
    jump=st.tuples(st.integers(1, 300), st.integers(0, 20_000)),
    budget=st.integers(100, 10**7),
    least=st.integers(1, 100),
    present=st.integers(1, 1000),
)
@settings(max_examples=300, deadline=None)
def test_the_largest_value_within_a_budget_is_found_in_few_measurements(
    fixed: int, each: int, most: int, jump: tuple[int, int], budget: int, least: int, present: int
) -> None:
    measured = []

    def bytes_at(value: int) -> int:
        measured.append(value)
        return kept(value)

    def kept(value: int) -> int:
        return fixed + each * min(value, most) + (jump[1] if value >= jump[0] else 0)

    found = _largest(bytes_at, budget, least, present)
    assert len(measured) <= 20
    assert min(measured) >= least
    if found is None:
        assert kept(least) > budget
    else:
        assert kept(found) <= budget
        assert kept(found) >= 0.99 * budget or kept(found + 1) > budget or found >= min(most, found)


@pytest.mark.parametrize(
    ("strategy", "budget"),
    [("replay", 60), ("agem", 60), ("gem", 60), ("ogd-plus", 60), ("ogd-pca", 500), ("ong-prior", 60), ("ncl", 30)],
)
def test_a_sized_run_keeps_at_most_its_budget_and_says_so(strategy: str, budget: int, tmp_path: Path) -> None:
    (job,) = planned([strategy], f"{budget}kB", tmp_path)
    assert job.strategy.name == f"{strategy}@{budget}kB"
    record = perform(job).record
    assert record is not None
    kept = record["diagnostics"]["memory_bytes"]
    assert 900 * budget <= max(kept) <= 1000 * budget
    memory = record["strategy"]["memory"]
    assert memory["budget"] == 1000 * budget
    place: Any = record["strategy"]
    for part in memory["knob"].split("."):
        place = place[int(part)] if isinstance(place, list) else place[part]
    assert place == memory["value"]
    assert (tmp_path / "permuted-digits" / job.strategy.name / "seed-0" / "record.json").exists()


def test_more_bytes_are_more_examples_and_each_is_measured_once(tmp_path: Path) -> None:
    said: list[str] = []
    small, large = (job.strategy for job in planned(["replay"], "20kB,40kB", tmp_path, tell=said.append))
    sizes = [strategy.plugins[0].options["mem_size"] for strategy in (small, large)]
    assert sizes[1] == pytest.approx(2 * sizes[0], rel=0.03)
    an_example = 64 + 1 + 1 + 4  # grey levels, label, task, the reservoir's weight
    assert sizes[0] == pytest.approx(20_000 / an_example, rel=0.05)
    assert said[0].startswith(f"replay@20kB: plugins.0.mem_size = {sizes[0]} keeps ")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / ".rehearsals").iterdir()}
    again = planned(["replay"], "20kB,40kB", tmp_path, changes={"optimizer.lr": 0.3})
    assert [job.strategy.plugins[0].options["mem_size"] for job in again] == sizes
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".rehearsals").iterdir()} == files


def test_what_has_no_knob_runs_once_as_it_is_where_it_fits(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = planned(["naive", "joint", "ewc"], "20kB,100kB", tmp_path, tell=said.append)
    assert [job.strategy.name for job in jobs] == ["naive", "joint", "ewc"]
    assert said[:2] == ["naive keeps nothing: it runs as it is", "joint keeps nothing: it runs as it is"]
    with pytest.raises(DoesNotFitError, match=r"'ewc' keeps \d.*kB and has no knob to keep less"):
        planned(["ewc"], "20kB", tmp_path)


def test_a_budget_below_the_fixed_part_is_told_with_the_smallest_one(tmp_path: Path) -> None:
    with pytest.raises(DoesNotFitError, match=r"'ong-prior' keeps (\S+)kB at least, more than 2kB") as caught:
        planned(["ong-prior"], "2kB", tmp_path)
    least = str(caught.value).split(" keeps ")[1].split(" ")[0]
    (job,) = planned(["ong-prior"], least, tmp_path)
    assert job.strategy.plugins[0].options["directions_per_task"] == job.strategy.plugins[0].options["rank"] == 1


def test_default_strategies_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = planned(None, "2kB", tmp_path, tell=said.append)
    assert "joint" in [job.strategy.name for job in jobs]
    assert any(line.startswith("ong-prior is left out: 'ong-prior' keeps ") for line in said)


def test_values_that_suit_a_budget_come_before_those_of_all_budgets(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        recipe_path("replay", "strategies").read_text(encoding="utf-8").split("[on.")[0]
        + '[on.permuted-digits]\n"optimizer.lr" = 0.2\n"plugins.0.mem_size" = 30\n',
        encoding="utf-8",
    )
    write_block(recipe, "permuted-digits@20kB", {"optimizer.lr": 0.3}, "as said")
    small, large = (job.strategy for job in planned([str(recipe)], "20kB,40kB", tmp_path))
    assert [s.optimizer.options["lr"] for s in (small, large)] == [0.3, 0.2]
    (plain,) = plan("permuted-digits", [str(recipe)], [0], SETTINGS, out=tmp_path)
    assert (plain.strategy.name, plain.strategy.optimizer.options["lr"]) == ("mine", 0.2)
    assert "memory" not in plain.strategy.settings()


@pytest.mark.slow
def test_a_search_under_a_budget_sizes_every_trial(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = recipe_path("ong-prior", "strategies").read_text(encoding="utf-8").split("[search]")[0]
    searched = '"optimizer.lr" = { low = 0.05, high = 0.2 }\n"plugins.0.rank" = { choices = [10, 60, 100] }\n'
    of_knob = '"plugins.0.directions_per_task" = { low = 1, high = 9 }\n'
    recipe.write_text(f"{text}[search]\n{searched}{of_knob}", encoding="utf-8")
    asked = Asked("permuted-digits", [str(recipe)], 4, changes=SETTINGS, out=tmp_path / "tuning", memory=60_000)
    (found,) = tune(asked)
    assert set(found.space) == {"optimizer.lr", "plugins.0.rank"}
    records = [json.loads(path.read_text()) for path in (tmp_path / "tuning").rglob("record.json")]
    assert len(records) == sum(trial.failure is None for trial in found.trials) > 0
    for record in records:
        assert 50_000 <= max(record["diagnostics"]["memory_bytes"]) <= 60_000
    with pytest.raises(UserError, match=r"strategy 'ewc' has no knob of memory; tune it without --memory"):
        tune(replace(asked, strategies=["ewc"]))


def test_the_command_line_and_a_sweep_file_take_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["--set", "training.epochs=1", "--set", "stream.tasks=2", "--jobs", "1", "--out", str(tmp_path)]

    def ong(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        return int(exit_.value.code or 0)

    assert ong("run", "permuted-digits", "naive", "replay", "--memory", "20kB,30kB", *quick) == 0
    out = capsys.readouterr().out
    assert "naive keeps nothing: it runs as it is" in out
    assert {path.name for path in (tmp_path / "permuted-digits").iterdir()} == {"naive", "replay@20kB", "replay@30kB"}
    assert ong("run", "permuted-digits", "replay", "--memory", "4", *quick) == 2
    assert capsys.readouterr().err == "ong: --memory '4': give a size in kB, MB or GB, such as 4MB or 500kB\n"
    sweep = tmp_path / "sweep.toml"
    sweep.write_text(
        'out = "."\n[[runs]]\nbenchmarks = ["permuted-digits"]\nstrategies = ["replay"]\nmemory = "20kB"\n'
        'set = { "training.epochs" = 1, "stream.tasks" = 2 }\n',
        encoding="utf-8",
    )
    assert [finished(job, job.settings) is not None for job in sweep_jobs(sweep)] == [True]


def _two_by_hand(tmp_path: Path) -> None:
    planned(["replay"], "20kB", tmp_path, changes={"plugins.0.mem_size": 5})


def _other_kind(tmp_path: Path) -> None:
    plan("deep-linear", None, [0], out=tmp_path, memory=[10**6])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_two_by_hand, "--set plugins.0.mem_size: --memory sets this itself"),
        (_other_kind, "--memory: strategies of kind deep-linear keep nothing from task to task"),
    ],
)
def test_mistakes_are_told(call: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        call(tmp_path)


def test_a_run_that_keeps_more_than_its_budget_stops(tmp_path: Path) -> None:
    (job,) = plan("permuted-digits", ["replay"], [0], SETTINGS | {"memory.budget": 10_000}, out=tmp_path)
    outcome = perform(job)
    assert outcome.wrong
    assert outcome.failure is not None
    assert "bytes are kept after task 0, more than memory.budget = 10000; lower plugins.0.mem_size" in outcome.failure
