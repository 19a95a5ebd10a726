"""A method as an Avalanche plugin is that method in a plain loop; what cannot be one is refused in a line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import ICaRL, Naive, StreamingLDA
from harness import EXACT, EXAMPLES, PLUGINS, STAY, Steps, leak, learner, stored, stream, tasks, train, weights
from nets import mlp
from torch import Tensor, nn

import ong
from ong import methods, plugins
from ong.errors import UserError
from ong.plugins import OGD, MethodPlugin, ONGPrior

pytestmark = pytest.mark.filterwarnings(
    "ignore:No loggers", "ignore:GPM. past inputs span", "ignore:.*of the space is left", "ignore:Plugin <ong"
)

every = pytest.mark.parametrize("name", PLUGINS)


class Batches(SupervisedPlugin):  # type: ignore[misc]
    """Notes the batches of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append((strategy.mb_x.clone(), strategy.mb_y.clone()))


@every
def test_a_plugin_trains_as_the_method_does_in_a_plain_loop_to_the_bit(name: str) -> None:
    plugin, batches, model = PLUGINS[name](), Batches(), mlp(6, 12, 3)
    train(learner(model, batches, plugin, epochs=2, momentum=0.5), stream())
    twin, method = mlp(6, 12, 3), PLUGINS[name]().method
    sgd = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.5)
    with method.attach(twin, sgd, criterion=nn.CrossEntropyLoss()):
        for task, experience in enumerate(stream()):
            method.begin_task(
                [torch.stack([torch.as_tensor(item[k]) for item in experience.dataset]) for k in range(3)]
            )
            for inputs, labels in batches.seen[6 * task : 6 * task + 6]:
                sgd.zero_grad()
                nn.functional.cross_entropy(twin(inputs), labels).backward()
                sgd.step()
            method.end_task()
    assert torch.equal(weights(model), weights(twin))
    assert plugin.statistics() == method.statistics()
    assert plugin.memory_bytes == method.memory_bytes


def test_every_method_has_a_plugin_of_its_name_with_its_options_and_documentation() -> None:
    others = ("Certificate", "Diagnostic", "Diagnostics", "MethodPlugin", "UntilConverged", "as_plugin")
    assert sorted([*methods.METHODS, *others]) == sorted(plugins.__all__)
    assert {"OGD", "ONGPrior", "SI"} <= {*methods.METHODS} <= {*methods.__all__} & {*dir(ong)}
    for name in methods.METHODS:
        plugin, method = getattr(plugins, name), getattr(methods, name)
        assert getattr(ong, name) is plugin
        assert plugin.__name__ == name
        options = set(inspect.signature(method).parameters)
        assert set(inspect.signature(plugin).parameters) == options | {"likelihood", "logits"}
        assert plugin.__doc__.startswith(method.__doc__.rstrip())
        assert type(plugin().method) is method


def test_an_option_that_a_method_does_not_have_is_an_error() -> None:
    with pytest.raises(TypeError, match="direction_per_task"):
        OGD(direction_per_task=3)


@pytest.mark.parametrize("name", ["ogd", "ong-prior", "ncl", "owm", "gpm", "ewc"])
def test_the_first_task_is_trained_as_without_us_to_the_bit(name: str) -> None:
    found = []
    for others in ([], [PLUGINS[name]()]):
        model = mlp(6, 8, 3)
        train(learner(model, *others, momentum=0.5), stream(1))
        found.append(weights(model))
    assert torch.equal(*found)


@every
def test_no_hook_outlives_training(name: str) -> None:
    model = mlp(6, 8, 3)
    strategy = learner(model, PLUGINS[name]())
    train(strategy, stream(2))
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert not strategy.optimizer._optimizer_step_pre_hooks
    assert not strategy.optimizer._optimizer_step_post_hooks


class BrokenError(Exception):
    """Raised in the middle of a task."""


class Breaking(SupervisedPlugin):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.armed = False

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.armed and strategy.clock.train_exp_iterations == 2:
            raise BrokenError


@pytest.mark.parametrize("name", ["ogd", "ong-v1", "ong-prior", "ewc", "si"])
def test_training_that_broke_off_can_be_begun_again(name: str) -> None:
    """The task is begun anew from the weights it stopped at; the promises hold, and it is kept once."""
    model, breaking, steps, plugin = mlp(6, 12, 3), Breaking(), Steps(), PLUGINS[name]()
    first, second, third = stream()
    strategy = learner(model, breaking, steps, plugin)
    train(strategy, [first])
    gradients = stored(model, first)
    breaking.armed = True
    with pytest.raises(BrokenError):
        train(strategy, [second])
    breaking.armed = False
    steps.taken.clear()
    train(strategy, [second])
    if name in STAY:
        assert max(leak(gradients, step) for step in steps.taken) < EXACT
    train(strategy, [third])
    assert plugin.method.tasks == 3


def test_training_twice_on_a_task_keeps_it_once_and_tasks_of_other_streams_are_others() -> None:
    plugin = OGD(directions_per_task=4)
    strategy = learner(mlp(6, 8, 3), plugin)
    first, second = tasks(2, examples=EXAMPLES, seed=0), tasks(2, examples=EXAMPLES, seed=1)
    counts = []
    for experience in (
        first.train_stream[0], first.train_stream[0], second.train_stream[0], first.test_stream[0],
        first.train_stream[1], second.train_stream[0],
    ):  # fmt: skip
        train(strategy, [experience])
        counts.append(len(plugin.method.memory))
    assert counts == [4, 4, 8, 12, 16, 16]


@pytest.mark.parametrize("name", STAY)
def test_training_again_on_a_kept_task_is_projected_off_it(name: str) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    strategy = learner(model, steps, PLUGINS[name]())
    (experience,) = stream(1)
    train(strategy, [experience])
    gradients = stored(model, experience)
    steps.taken.clear()
    train(strategy, [experience])
    assert len(steps.taken) == 3
    assert all(leak(gradients, step) < EXACT for step in steps.taken)


class Doubling(SupervisedPlugin):  # type: ignore[misc]
    """Changes the gradient in the last hook before the step."""

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        for parameter in strategy.model.parameters():
            parameter.grad *= 2
            parameter.grad += 0.01


@every
def test_the_order_of_plugins_does_not_matter(name: str) -> None:
    """What comes before the step has happened before the step is rewritten, wherever the plugin stands."""
    found = []
    for place in (0, 1):
        model, others = mlp(6, 8, 3), [Doubling()]
        others.insert(place, PLUGINS[name]())
        train(learner(model, *others), stream(2))
        found.append(weights(model))
    assert torch.equal(*found)


def test_two_methods_in_one_strategy_are_an_error() -> None:
    strategy = learner(mlp(6, 8, 3), OGD(), PLUGINS["ewc"]())
    with pytest.raises(UserError, match="OGD rewrites the steps of this optimizer already"):
        train(strategy, stream(1))


def test_one_plugin_may_go_from_strategy_to_strategy() -> None:
    """What it keeps goes with it."""
    plugin, first_steps = OGD(directions_per_task=EXAMPLES), Steps()
    first, second = stream(2)
    model = mlp(6, 12, 3)
    train(learner(model, plugin), [first])
    gradients = stored(model, first)
    train(learner(model, first_steps, plugin, lr=0.2), [second])
    assert all(leak(gradients, step) < EXACT for step in first_steps.taken)
    assert plugin.method.tasks == 2


def lda(plugin: Any) -> Any:
    return StreamingLDA(
        slda_model=nn.Linear(6, 5), criterion=nn.CrossEntropyLoss(), input_size=5, num_classes=3, train_mb_size=4,
        plugins=[plugin],
    )  # fmt: skip


def icarl(plugin: Any) -> Any:
    body, head = nn.Linear(6, 5), nn.Linear(5, 3)
    return ICaRL(
        feature_extractor=body, classifier=head, optimizer=torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.1),
        memory_size=10, buffer_transform=None, fixed_memory=True, train_mb_size=4, plugins=[plugin],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lda, "StreamingLDA trains without an optimizer, so OGD has no steps to rewrite"),
        (icarl, "the model of ICaRL has no logits in eval mode, so OGD cannot take their gradients"),
    ],
)
def test_strategies_whose_steps_cannot_be_rewritten_are_refused_in_one_line(
    make: Callable[[Any], Any], message: str
) -> None:
    strategy = make(OGD())
    before = weights(strategy.model)
    with pytest.raises(UserError) as caught:
        train(strategy, stream(1, dtype=torch.float32))
    assert str(caught.value) == message
    assert torch.equal(weights(strategy.model), before)


@pytest.mark.parametrize(
    ("criterion", "given", "expected"),
    [
        (nn.CrossEntropyLoss(), None, "categorical"),
        (nn.CrossEntropyLoss(), "bernoulli", "bernoulli"),
        (lambda out, y: nn.functional.cross_entropy(out, y), "gaussian", "gaussian"),
    ],
)
def test_the_likelihood_is_the_criterions_or_the_one_given(criterion: Any, given: Any, expected: str) -> None:
    plugin = ONGPrior(fisher="exact", directions_per_task=4, likelihood=given)
    model = mlp(6, 8, 3)
    strategy = learner(model, plugin)
    strategy._criterion = criterion
    train(strategy, stream(1))
    (experience,) = stream(1)
    x = torch.stack([item[0] for item in experience.dataset])
    fitted = ong.EKFAC.fit(model, [(x,)], fisher="exact", likelihood=expected)
    assert plugin.method.past.ekfac.trace() == pytest.approx(fitted.trace(), rel=1e-9)


def test_a_criterion_that_tells_no_likelihood_is_an_error_before_training() -> None:
    strategy = learner(mlp(6, 8, 3), ONGPrior(fisher="exact"))
    strategy._criterion = lambda out, y: nn.functional.cross_entropy(out, y)
    with pytest.raises(UserError, match="does not say which likelihood the outputs have; pass likelihood="):
        train(strategy, stream(1))


class Pair(nn.Module):
    """Gives its logits and something else."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.body(x), x.mean(1)


class OfPairs(Naive):  # type: ignore[misc]
    def criterion(self) -> Tensor:
        return self._criterion(self.mb_output[0], self.mb_y)


def test_a_model_whose_outputs_are_no_logits_takes_a_function_that_gives_them() -> None:
    model, plain = Pair(), mlp(6, 8, 3)
    ours = MethodPlugin(methods.OGD(directions_per_task=4), logits=lambda batch: model(batch[0])[0])
    train(learner(model, ours, kind=OfPairs), stream(2))
    train(learner(plain, OGD(directions_per_task=4)), stream(2))
    assert torch.equal(weights(model), weights(plain))
    with pytest.raises(UserError, match="the model returns a tuple, where .* is expected; pass logits=FUNCTION"):
        train(learner(Pair(), OGD(), kind=OfPairs), stream(1))


def test_data_that_do_not_lie_in_memory_give_the_same() -> None:
    """Transformed data sets are read item by item, in evaluation's transforms."""
    ends = []
    for transform in (None, lambda x: x):
        model = mlp(6, 8, 3)
        experiences = list(stream(2))
        for experience in experiences:
            if transform is not None:
                whole = experience._dataset.replace_current_transform_group((transform, None))
                experience._dataset = whole.eval().replace_current_transform_group((transform, None)).train()
        train(learner(model, ONGPrior(directions_per_task=5)), experiences)
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_an_experience_of_a_classic_stream_counts_once_though_each_access_makes_it_anew() -> None:
    from avalanche.benchmarks import nc_benchmark
    from torch.utils.data import TensorDataset

    labels = torch.arange(60) % 4
    data = TensorDataset(torch.randn(60, 6), labels)
    data.targets = labels.tolist()
    stream = nc_benchmark(data, data, n_experiences=2, task_labels=False).train_stream
    assert stream[0] is not stream[0]
    model, plugin = nn.Linear(6, 4), ong.OGD(directions_per_task=5)
    learner = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=10,
        plugins=[plugin],
        evaluator=EvaluationPlugin(),
    )
    for _ in range(2):
        for experience in stream:
            learner.train(experience, eval_streams=[])
    assert plugin.method.tasks == 2


def test_training_on_all_tasks_at_once_is_refused_in_one_line() -> None:
    from avalanche.training.supervised import JointTraining

    model = mlp(6, 3)
    learner = JointTraining(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        criterion=nn.CrossEntropyLoss(),
        plugins=[ong.OGD()],
        evaluator=EvaluationPlugin(),
    )
    with pytest.raises(UserError, match="JointTraining trains on all tasks at once"):
        learner.train(tasks(2).train_stream, eval_streams=[])
