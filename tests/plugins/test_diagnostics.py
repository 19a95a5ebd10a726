"""What is measured of each step, and where it shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.logging import BaseLogger, TextLogger
from harness import PLUGINS, tasks, weights
from harness import learner as strategy_of
from nets import mlp
from torch import nn

from ong.errors import UserError
from ong.plugins import OGD, Diagnostic, Diagnostics
from ong.projection import DirectionMemory
from ong.quantities import Quantity

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*of the space is left")

MEASURES = ("leak", "leak_unseen", "descent_cosine", "rank", "space_left", "condition")


def learner(*plugins: Any, loggers: Any = (), model: nn.Module | None = None) -> Any:
    return strategy_of(model or mlp(6, 12, 3), *plugins, loggers=loggers, epochs=2)


def train(strategy: Any, count: int = 3) -> None:
    torch.manual_seed(0)
    for experience in tasks(count).train_stream:
        strategy.train(experience, eval_streams=[])


class Collector(BaseLogger):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, float, int]] = []

    def log_single_metric(self, name: str, value: float, x_plot: int) -> None:
        self.seen.append((name, value, x_plot))


@pytest.mark.parametrize("name", ["ogd", "ong-v1", "ong-prior"])
def test_every_measured_step_reaches_the_loggers(name: str) -> None:
    diagnostics, collector = Diagnostics(every=5, directions_per_task=6), Collector()
    train(learner(diagnostics, PLUGINS[name](directions_per_task=6), loggers=[collector]))
    expected = [
        (f"{measure}/train_phase/train_stream", seen[measure], 12 * seen["task"] + seen["step"])
        for seen in diagnostics.steps
        for measure in MEASURES
        if measure in seen
    ]
    assert [(seen["task"], seen["step"]) for seen in diagnostics.steps] == [
        (t, s) for t in range(3) for s in (0, 5, 10)
    ]
    assert sorted(collector.seen) == sorted(expected)
    assert set(diagnostics.steps[-1]) == {"task", "step", *MEASURES}


def test_tensorboard_and_text_show_them(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    from avalanche.logging import TensorboardLogger

    text, board = io.StringIO(), TensorboardLogger(tb_log_dir=tmp_path)
    diagnostics = Diagnostics(every=5, directions_per_task=6)
    train(learner(diagnostics, OGD(directions_per_task=6), loggers=[board, TextLogger(text)]), count=2)
    board.writer.flush()
    events = event_accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    shown = [event.value for event in events.Scalars("descent_cosine/train_phase/train_stream")]
    assert shown == pytest.approx([seen["descent_cosine"] for seen in diagnostics.steps], rel=1e-6)  # float32 there
    last = diagnostics.steps[-1]
    assert f"rank/train_phase/train_stream = {last['rank']}" in text.getvalue()
    assert f"leak_unseen/train_phase/train_stream = {last['leak_unseen']:.4f}" in text.getvalue()


def test_an_evaluator_that_is_switched_off_gets_nothing() -> None:
    collector, diagnostics = Collector(), Diagnostics(every=1, directions_per_task=6)
    strategy = learner(diagnostics, loggers=[collector])
    strategy.evaluator.active = False
    train(strategy)
    assert not collector.seen
    assert not strategy.evaluator._metric_values
    assert len(diagnostics.steps) == 36


def test_a_tasks_measures_are_the_means_of_its_steps() -> None:
    diagnostics = Diagnostics(every=2, directions_per_task=6)
    train(learner(diagnostics, OGD(directions_per_task=6)))
    for name in MEASURES:
        for task in range(3):
            values = [seen[name] for seen in diagnostics.steps if seen["task"] == task and name in seen]
            expected = pytest.approx(np.mean(values)) if values else None
            assert diagnostics.measures[name][task] == expected
    assert diagnostics.measures["leak"][0] is None  # nothing is past
    assert diagnostics.measures["descent_cosine"][0] == pytest.approx(1)


def test_the_unseen_examples_are_not_among_those_that_a_plugin_with_more_directions_stores() -> None:
    diagnostics = Diagnostics(every=2, directions_per_task=4)
    train(learner(diagnostics, OGD(directions_per_task=12)))
    for task in (1, 2):
        leak, unseen = diagnostics.measures["leak"][task], diagnostics.measures["leak_unseen"][task]
        assert leak is not None
        assert unseen is not None
        assert leak < 1e-6 < 0.05 < unseen


def test_rank_and_condition_are_those_of_the_unit_directions_projected_off() -> None:
    diagnostics, plugin = Diagnostics(every=3, directions_per_task=6), OGD(directions_per_task=6)
    strategy = learner(diagnostics, plugin)
    stream = tasks(3).train_stream
    for task, experience in enumerate(stream):
        memory = DirectionMemory(plugin.method.memory.rows)
        strategy.train(experience, eval_streams=[])
        if not task:
            assert diagnostics.measures["rank"] == diagnostics.measures["condition"] == [None]
            continue
        columns = torch.stack(
            [
                torch.cat([part.flatten() for part in memory.combine(unit).values()])
                for unit in torch.eye(len(memory), dtype=torch.float64)
            ],
            1,
        ).numpy()
        columns /= np.linalg.norm(columns, axis=0)
        assert diagnostics.measures["rank"][task] == np.linalg.matrix_rank(columns, tol=1e-3) == 6 * task
        assert diagnostics.measures["space_left"][task] == pytest.approx(1 - 6 * task / 123)
        # the Gram's condition is the square of the directions'; float64 has 1e-16 · 1e3 to spare
        assert diagnostics.measures["condition"][task] == pytest.approx(np.linalg.cond(columns) ** 2, rel=1e-8)


@pytest.mark.parametrize("name", [None, "ngd"])
def test_without_a_projection_there_is_no_rank(name: str | None) -> None:
    diagnostics = Diagnostics(every=3, directions_per_task=6)
    train(learner(diagnostics, *([PLUGINS[name]()] if name else [])))
    assert diagnostics.measures["rank"] == diagnostics.measures["condition"] == [None] * 3
    assert diagnostics.measures["leak"][1] > 0.05


def test_looking_changes_nothing() -> None:
    found = []
    for plugins in ([], [Diagnostics(every=1, directions_per_task=6)]):
        model = mlp(6, 12, 3)
        train(learner(*plugins, OGD(directions_per_task=6), model=model))
        found.append(weights(model))
    assert torch.equal(*found)


@pytest.mark.parametrize("boundaries", [True, False])
def test_an_online_task_is_measured_as_one_task(boundaries: bool) -> None:
    """Diagnostics log, so they may know boundaries that the learner may not."""
    diagnostics = Diagnostics(every=4, directions_per_task=6)
    strategy = learner(diagnostics)
    pieces = split_online_stream(tasks(2).train_stream, 8, access_task_boundaries=boundaries, seed=0)
    for piece in pieces:  # 3 pieces of 2 batches, twice
        strategy.train(piece, eval_streams=[])
    assert [(seen["task"], seen["step"]) for seen in diagnostics.steps] == [(t, s) for t in (0, 1) for s in (0, 4, 8)]
    assert diagnostics.tasks == 2
    assert diagnostics.measures["leak"][1] > 0.05


def test_bounds_hold_for_the_yardsticks_too() -> None:
    diagnostics = Diagnostics(every=4, directions_per_task=6, max_directions=8)
    train(learner(diagnostics))
    assert [len(memory) for memory in diagnostics._memories.values()] == [8, 8]


@pytest.mark.parametrize("wrong", [{"every": 0}, {"directions_per_task": 0}, {"max_directions": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1, got"):
        Diagnostics(**wrong)


class Returning(Diagnostic):
    quantities: ClassVar[dict[str, Quantity]] = {"odd": Quantity(title="Odd")}
    returns: ClassVar[Any] = None

    def end_task(self, strategy: Any) -> Any:
        return self.returns


@pytest.mark.parametrize("returned", [None, "text", {"odd": "text"}, [1.0]])
def test_a_diagnostic_that_returns_no_numbers_is_named(returned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Returning, "returns", returned)
    with pytest.raises(UserError, match="diagnostic Returning: end_task returns numbers by name"):
        train(learner(Returning()), 1)
