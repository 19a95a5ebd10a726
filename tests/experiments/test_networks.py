"""The built-in networks, the Fashion-MNIST recipes, and what bounds leave in a record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ong.curvature import find_blocks
from ong.errors import UserError
from ong.experiments.jobs import perform
from ong.experiments.models.build import build_model
from ong.experiments.plan import plan
from ong.experiments.recipes import load_benchmark
from ong.experiments.schema import ModelRecipe

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def record(benchmark: str, strategy: str, out: Path, **changes: Any) -> dict[str, Any]:
    """A run of a Fashion recipe on digits, which lie in a package, with two tasks."""
    path = str(BENCHMARKS / f"{benchmark}.toml")
    settings = {"stream.tasks": 2, "training.batch_size": 16} | changes
    (job,) = plan(path, [strategy], [0], settings, dataset="digits", out=out)
    found = perform(job).record
    assert found is not None
    return found


def test_a_cnn_has_the_layers_its_options_name() -> None:
    options = {"channels": [4, 6], "kernel": 5, "pool": 3, "hidden": [10]}
    model = build_model(ModelRecipe(name="cnn", **options), (3, 28, 20), 7)
    shapes = {name: block.shape for name, block in find_blocks(model).items()}
    # 28 × 20 → 9 × 6 → 3 × 2 after poolings by 3; a bias column each
    assert list(shapes.values()) == [(4, 3 * 25 + 1), (6, 4 * 25 + 1), (10, 6 * 6 + 1), (7, 11)]
    assert model(torch.zeros(2, 3, 28, 20)).shape == (2, 7)


@pytest.mark.parametrize("bias", [True, False])
def test_a_perceptron_has_biases_everywhere_or_nowhere(bias: bool) -> None:
    model = build_model(ModelRecipe(name="mlp", hidden=[5, 4], bias=bias), (1, 3, 2), 7)
    assert [block.shape for block in find_blocks(model).values()] == [(5, 6 + bias), (4, 5 + bias), (7, 4 + bias)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel": 4}, "kernel odd, got .*kernel=4"),
        ({"channels": [8, 0]}, r"at least 1 .*channels=\[8, 0\]"),
        ({"channels": [4] * 4}, "4 poolings by 2 leave nothing of images of 8 × 8"),
        ({"chanels": [4]}, "option of model cnn 'chanels'; did you mean 'channels'"),
    ],
)
def test_what_is_wrong_with_a_cnn_is_said(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(ModelRecipe(name="cnn", **options), (1, 8, 8), 2)


@pytest.mark.parametrize("benchmark", ["permuted-fashion", "split-fashion"])
@pytest.mark.parametrize("strategy", ["ogd", "ong-prior"])
def test_fashion_recipes_run_end_to_end(benchmark: str, strategy: str, tmp_path: Path) -> None:
    found = record(benchmark, strategy, tmp_path, **{"training.epochs": 3, "optimizer.lr": 0.1})  # of few digits
    matrix = np.array(found["accuracy_matrix"])
    chance = 0.1 if benchmark == "permuted-fashion" else 0.5
    assert min(matrix[1, 0], matrix[2, 1]) > chance + 0.3  # each task was learned
    assert found["diagnostics"]["leak"][1] < 0.01  # float32
    assert found["diagnostics"]["leak_unseen"][1] > 0.01
    assert found["diagnostics"]["directions"] == [100, 200]
    assert found["diagnostics"]["rank"] == [None, 100]


def test_the_fashion_recipes_are_what_the_protocol_says() -> None:
    permuted = load_benchmark(str(BENCHMARKS / "permuted-fashion.toml"))
    assert (permuted.dataset, permuted.stream.options["tasks"]) == ("fashion-mnist", 10)
    assert (permuted.training.epochs, permuted.training.batch_size) == (1, 64)
    assert permuted.model == load_benchmark(str(BENCHMARKS / "permuted-mnist.toml")).model
    split = load_benchmark(str(BENCHMARKS / "split-fashion.toml"))
    assert (split.dataset, split.model.name, split.stream.name) == ("fashion-mnist", "cnn", "split")


def test_a_record_tells_what_the_bounds_dropped_and_each_measured_step(tmp_path: Path) -> None:
    found = record("split-fashion", "ogd", tmp_path, **{"stream.tasks": 3, "plugins.0.max_directions": 120})
    told = found["diagnostics"]
    assert told["directions"] == [100, 120, 120]
    assert told["directions_dropped"] == [0, 80, 180]
    assert told["directions_captured"][0] == 1
    assert all(0.5 < share < 1 for share in told["directions_captured"][1:])
    assert told["leak"][2] > 1e-3  # what was dropped is no longer protected
    for name in ("leak", "leak_unseen", "descent_cosine", "rank", "condition"):
        for task, mean in enumerate(told[name]):
            values = [step[name] for step in found["diagnostics"]["steps"] if step["task"] == task and name in step]
            assert mean == (pytest.approx(np.mean(values)) if values else None)


def test_a_record_without_our_plugins_says_nothing_of_directions(tmp_path: Path) -> None:
    found = record("split-fashion", "naive", tmp_path)
    assert not [name for name in found["diagnostics"] if name.startswith("directions")]
    assert found["diagnostics"]["rank"] == [None, None]
