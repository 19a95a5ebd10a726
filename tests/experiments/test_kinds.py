"""Kinds of benchmark: recipes, strategies and defaults of each."""

from __future__ import annotations

from pathlib import Path

import pytest

from ong.errors import UserError
from ong.experiments.kinds import KINDS
from ong.experiments.plan import plan
from ong.experiments.recipes import list_recipes, load_benchmark, load_strategy


@pytest.mark.parametrize("kind", KINDS)
def test_every_recipe_in_the_package_is_valid_and_plans(kind: str, tmp_path: Path) -> None:
    benchmarks = [name for name in list_recipes("benchmarks") if load_benchmark(name).kind == kind]
    strategies = list_recipes(KINDS[kind].folder)
    assert benchmarks
    assert strategies
    for name in strategies:
        recipe = load_strategy(name, kind)
        assert isinstance(recipe, KINDS[kind].strategy)
        assert recipe.summary
        assert recipe.source
        assert {name.partition("@")[0] for name in recipe.on} <= set(benchmarks)
    for benchmark in benchmarks:
        assert plan(benchmark, None, [0], out=tmp_path)


def test_defaults_leave_out_what_is_too_large_and_say_why(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = plan("deep-linear-net3", None, [0], out=tmp_path, tell=said.append)
    assert [job.strategy.name for job in jobs] == ["ngd-any-width", "ngd-paper", "sgd"]
    assert any(line.startswith("ngd-min-norm is left out: ") and "40000 unknowns" in line for line in said)
    assert any(line.startswith("newton is left out: ") for line in said)
    with pytest.raises(UserError, match="'newton' cannot run on 'deep-linear-net3': the Hessian of .* weights"):
        plan("deep-linear-net3", ["newton"], [0], out=tmp_path)


def test_a_benchmarks_own_list_of_strategies_is_the_default(tmp_path: Path) -> None:
    changes = {"strategies": ["sgd", "newton"], "dims": [3, 3]}
    jobs = plan("deep-linear", None, [0], changes, out=tmp_path)
    assert [job.strategy.name for job in jobs] == ["sgd", "newton"]
    assert "strategies" not in jobs[0].run().settings["benchmark"]  # another list is no other run


def test_a_benchmark_takes_the_values_tuned_on_a_like_one_where_it_has_none(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    text = """
summary = "x"
source = "x"
[optimizer]
use = "torch.optim:SGD"
lr = 0.5
[on.permuted-mnist]
"optimizer.lr" = 0.25
"""
    recipe.write_text(text)
    (like,) = plan("permuted-fashion", [str(recipe)], [0], out=tmp_path)
    assert like.strategy.optimizer.options["lr"] == 0.25
    recipe.write_text(text + '[on.permuted-fashion]\n"optimizer.lr" = 0.125\n')
    (own,) = plan("permuted-fashion", [str(recipe)], [0], out=tmp_path)
    assert own.strategy.optimizer.options["lr"] == 0.125
    with pytest.raises(
        UserError, match="unknown benchmark in tuned_as 'permuted-mnits'; did you mean 'permuted-mnist'"
    ):
        plan("permuted-fashion", [str(recipe)], [0], {"tuned_as": "permuted-mnits"}, out=tmp_path)


def test_the_same_name_is_another_strategy_in_another_kind() -> None:
    assert type(load_strategy("ngd")) is KINDS["continual"].strategy
    with pytest.raises(UserError, match="unknown deep-linear strategy 'ngd'; did you mean 'sgd'"):
        load_strategy("ngd", "deep-linear")


def test_a_list_of_widths_takes_the_place_of_a_setting(tmp_path: Path) -> None:
    (job,) = plan("deep-linear", ["sgd"], [0], {"dims": [3, 4, 2]}, out=tmp_path)
    settings = job.run().settings["benchmark"]
    assert settings["setting"] is None
    assert settings["dims"] == [3, 4, 2]
