"""Heads that grow with the classes, and heads of their own for each task."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from harness import EXAMPLES, PLUGINS, STAY, Steps, leak, learner, stored, train
from torch import Tensor, nn

from ong.plugins import NCL
from ong.streams import TaskData, benchmark_from_tensors

pytestmark = pytest.mark.filterwarnings(
    "ignore:No loggers",
    "ignore:GPM. past inputs span",
    "ignore:.*of the space is left",
    "ignore:only Linear, Conv1d and Conv2d",
)
SINGLE = 1e-3  # float32, in which Avalanche's heads grow
DIRECTIONS = ("ogd", "ogd+", "ong-v1", "ong", "ong-prior", "fopng")


def incremental() -> tuple[nn.Module, Any]:
    """A growing head, and a class-incremental stream of two classes a task."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for task in range(3):
        y = torch.arange(EXAMPLES) % 2 + 2 * task
        centres = 2 * torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
        x = centres[y] + 0.3 * torch.randn(EXAMPLES, 6, generator=generator)
        parts.append(TaskData((x, y), (x, y)))
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), IncrementalClassifier(12))
    return model, benchmark_from_tensors(parts)


@pytest.mark.parametrize("name", STAY)
def test_a_growing_head_keeps_its_old_columns_and_learns_with_the_new(name: str) -> None:
    model, benchmark = incremental()
    steps, plugin = Steps(), PLUGINS[name]()
    strategy = learner(model, steps, plugin, epochs=12, lr=0.1)
    gradients: list[Any] = []
    for task, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        head = model[2].classifier
        assert head.out_features == 2 * task + 2
        assert all(leak(gradients, step) < SINGLE for step in steps.taken if gradients)
        assert all(float(step["2.classifier.weight"][-2:].norm()) > 0 for step in steps.taken)
        x, y = (torch.stack([torch.as_tensor(item[k]) for item in experience.dataset]) for k in (0, 1))
        assert torch.equal(model.eval()(x).argmax(1), y)  # separable, and learned
        gradients += stored(model, experience)
        steps.taken.clear()
        first = {key: rows.dense(torch.arange(EXAMPLES)) for key, rows in plugin.method.memory.rows.items()}
        assert not first["2.classifier"][:, 2:].any()  # the first task's directions grew with zeros
    assert plugin.method.memory.rows["2.classifier"].shape == (6, 13)


@pytest.mark.parametrize("name", PLUGINS)
def test_evaluating_all_classes_between_tasks_grows_the_head_early_and_harmlessly(name: str) -> None:
    model, benchmark = incremental()
    steps, plugin = Steps(), PLUGINS[name]()
    strategy = learner(model, steps, plugin)
    gradients: list[Any] = []
    for experience in benchmark.train_stream:
        steps.taken.clear()
        strategy.train(experience, eval_streams=[])
        if name in STAY:
            assert all(leak(gradients, step) < SINGLE for step in steps.taken if gradients)
        gradients += stored(model, experience)
        strategy.eval(benchmark.test_stream)
    assert model[2].classifier.out_features == 6
    assert plugin.method.tasks == 3
    if name in DIRECTIONS:
        assert len(plugin.method.memory) == 3 * (4 if name == "fopng" else EXAMPLES)


def test_evaluating_within_a_task_grows_the_head_before_the_task_is_kept() -> None:
    model, benchmark = incremental()
    steps, plugin = Steps(), PLUGINS["ogd"]()
    strategy = learner(model, steps, plugin, epochs=2)
    gradients: list[Any] = []
    for experience in benchmark.train_stream:
        steps.taken.clear()
        strategy.eval_every = 1
        strategy.train(experience, eval_streams=[benchmark.test_stream])
        assert all(leak(gradients, step) < SINGLE for step in steps.taken if gradients)
        gradients += stored(model, experience)
    assert plugin.method.memory.rows["2.classifier"].shape == (6, 13)


def test_ncl_draws_rows_that_a_head_has_gained_to_where_they_began() -> None:
    """The Fisher is zero there, so their first step is the gradient's, and the old rows' is not."""
    model, benchmark = incremental()
    steps = Steps()
    strategy = learner(model, steps, NCL(damping=1.0), lr=0.05)
    first, second, _ = benchmark.train_stream
    train(strategy, [first])
    steps.taken.clear()
    gradient: list[Tensor] = []

    class Noted(Steps):
        def before_update(self, strategy: Any, **kwargs: Any) -> None:
            gradient.append(strategy.model[2].classifier.weight.grad.clone())

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            pass

    strategy.plugins.append(Noted())
    train(strategy, [second])
    moved = steps.taken[0]["2.classifier.weight"] / -0.05
    torch.testing.assert_close(moved[2:], gradient[0][2:], rtol=1e-4, atol=1e-5)  # float32
    assert (moved[:2] - gradient[0][:2]).norm() > 0.01 * gradient[0][:2].norm()


class Heads(MultiTaskModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.Tanh())
        self.heads = MultiHeadClassifier(9)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        return self.heads(self.body(x), task_labels)


def labelled_tasks() -> Any:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(3):
        x, y = torch.randn(EXAMPLES, 6, generator=generator), torch.arange(EXAMPLES) % 2
        parts.append(TaskData((x, y), (x, y)))
    return benchmark_from_tensors(parts, task_aware=True)


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_heads_of_other_tasks_stay_to_the_bit_and_their_outputs_to_first_order(name: str, momentum: float) -> None:
    """The constraint is over what moves: cutting the old head's part out of a step would leak."""
    torch.manual_seed(0)
    stream = labelled_tasks().train_stream
    model, steps, plugin = Heads(), Steps(), PLUGINS[name]()
    strategy = learner(model, steps, plugin, epochs=2, momentum=momentum)
    gradients: list[Any] = []
    for task, experience in enumerate(stream):
        strategy.train(experience, eval_streams=[])
        if name in STAY:
            assert all(leak(gradients, step) < 2 * SINGLE for step in steps.taken if gradients)
        moved = {key.split(".")[2] for step in steps.taken for key, v in step.items() if "heads" in key and v.any()}
        assert moved == {str(task)}
        gradients += stored(model, experience)
        steps.taken.clear()
    assert any(part["heads.classifiers.0.classifier.weight"].any() for part in gradients[:EXAMPLES])


@pytest.mark.parametrize("name", STAY)
def test_heads_that_evaluation_made_before_their_task_change_nothing(name: str) -> None:
    """Evaluating unseen tasks makes their heads; the steps of the present one are the same."""
    ends = []
    for early in (False, True):
        torch.manual_seed(0)
        benchmark, model = labelled_tasks(), Heads()
        if early:
            for experience in benchmark.train_stream:
                model.adaptation(experience)
        else:
            model.adaptation(benchmark.train_stream[0])
        strategy = learner(model, PLUGINS[name](), epochs=2)
        train(strategy, benchmark.train_stream[:1])
        train(strategy, benchmark.train_stream[:1])
        ends.append(model.body[0].weight.detach().clone())
    torch.testing.assert_close(*ends, rtol=1e-5, atol=1e-6)
