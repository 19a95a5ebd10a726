"""Training until held-out accuracy stops rising: on what, for how long, and what is left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.supervised import JointTraining, Naive
from harness import learner, train, weights
from torch import nn

from ong.errors import UserError
from ong.experiments.plan import plan
from ong.experiments.sweep import sweep
from ong.plugins import UntilConverged
from ong.streams import TaskData, benchmark_from_tensors


class Seen(SupervisedPlugin):  # type: ignore[misc]
    """Notes the examples of each pass, and the weights after it."""

    def __init__(self) -> None:
        super().__init__()
        self.passes: list[list[float]] = []
        self.weights: list[torch.Tensor] = []

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.passes.append([])

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.passes[-1] += strategy.mb_x[:, 0].tolist()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self.weights.append(weights(strategy.model))


def numbered(count: int, examples: int) -> Any:
    """Tasks of the same random examples, whose first input is their number, later tasks' 1000 higher each."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(examples, 5, generator=generator), torch.randint(0, 3, (examples,), generator=generator)
    parts = []
    for task in range(count):
        numbers = torch.arange(examples)[:, None] + 1000 * task
        both = torch.cat([numbers, x], 1), y
        parts.append(TaskData(train=both, test=both))
    return benchmark_from_tensors(parts)


class Scaled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x[:, 1:])


def test_joint_training_passes_over_five_sixths_of_each_task_the_same_images_in_all() -> None:
    seen = Seen()
    strategy = learner(Scaled(5, 3), UntilConverged(patience=2, max_epochs=3), seen, kind=JointTraining)
    train(strategy, [numbered(3, 62).train_stream])
    parts = [{int(number) % 1000 for number in seen.passes[0] if number // 1000 == task} for task in range(3)]
    assert [len(part) for part in parts] == [62 - 10] * 3
    assert parts[0] == parts[1] == parts[2]
    assert all(sorted(each) == sorted(seen.passes[0]) for each in seen.passes)


@pytest.mark.parametrize("kind", [JointTraining, Naive])
def test_training_ends_when_accuracy_has_not_risen_for_long_and_leaves_the_best_weights(kind: type[Naive]) -> None:
    seen, until = Seen(), UntilConverged(patience=3, max_epochs=60)
    torch.manual_seed(3)
    strategy = learner(Scaled(5, 3), until, seen, kind=kind, lr=0.3, epochs=1)
    stream = numbered(1, 90)
    train(strategy, [stream.train_stream])
    best = until.accuracies.index(max(until.accuracies))
    assert len(until.accuracies) == best + 1 + 3 < 60
    assert torch.equal(weights(strategy.model), seen.weights[best])
    assert not torch.equal(weights(strategy.model), seen.weights[-1])
    x, y = (torch.stack([torch.as_tensor(item[part]) for item in stream.train_stream[0].dataset]) for part in (0, 1))
    held = torch.tensor([number not in seen.passes[0] for number in x[:, 0].tolist()])
    right = strategy.model(x[held]).argmax(1) == y[held]
    assert int(held.sum()) == 15
    assert float(right.double().mean()) == pytest.approx(max(until.accuracies))
    assert strategy.train_epochs == 1


def test_every_task_is_trained_when_the_one_before_ended_early_or_at_the_most_passes() -> None:
    for most in (2, 40):
        seen, until = Seen(), UntilConverged(patience=1, max_epochs=most)
        strategy = learner(Scaled(5, 3), until, seen)
        train(strategy, numbered(2, 30).train_stream)
        tasks = [{number // 1000 for number in each} for each in seen.passes]
        assert {0} in tasks
        assert {1} in tasks
        assert len(until.accuracies) <= most


def test_tasks_too_small_to_hold_any_out_are_refused() -> None:
    with pytest.raises(UserError, match="holds a sixth of each task out"):
        train(learner(Scaled(5, 3), UntilConverged()), numbered(1, 5).train_stream)
    with pytest.raises(UserError, match="patience and max_epochs must be at least 1, got 0 and 3"):
        UntilConverged(patience=0, max_epochs=3)


def test_the_recipe_bounds_joint_training_of_few_passes(tmp_path: Path) -> None:
    names = ["joint", "joint-converged"]
    jobs = plan("permuted-digits", names, [0], {"training.epochs": 2, "stream.tasks": 3}, out=tmp_path)
    few, converged = (outcome.record for outcome in sweep(jobs, show=False))
    assert few is not None
    assert converged is not None
    assert converged["metrics"]["ACC"] > few["metrics"]["ACC"] + 0.02
