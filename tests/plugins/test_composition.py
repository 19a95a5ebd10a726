"""Our plugins beside others, in strategies that step in their own ways: neither disturbs the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EWCPlugin, GEMPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import AGEM, GDumb, Naive, Replay
from harness import EXACT, EXAMPLES, PLUGINS, STAY, Steps, leak, learner, stored, stream, total, train, weights
from nets import mlp
from torch import Tensor, nn

from ong.plugins import OGD

pytestmark = pytest.mark.filterwarnings(
    "ignore:No loggers", "ignore:GPM. past inputs span", "ignore:Call to deprecated", "ignore:.*of the space is"
)

OTHERS: dict[str, Callable[[], SupervisedPlugin]] = {
    "replay": lambda: ReplayPlugin(mem_size=8),
    "lwf": lambda: LwFPlugin(alpha=2.0, temperature=1.5),
    "ewc": lambda: EWCPlugin(ewc_lambda=50.0),
    "gem": lambda: GEMPlugin(patterns_per_experience=6, memory_strength=0.3),
}


def knowledge(plugin: Any) -> list[Tensor]:
    """What each of Avalanche's plugins has kept of the first task."""
    if isinstance(plugin, ReplayPlugin):
        return [torch.stack([item[0] for item in plugin.storage_policy.buffer])]
    if isinstance(plugin, LwFPlugin):
        return [weights(plugin.lwf.prev_model)]
    if isinstance(plugin, EWCPlugin):
        return [part.data for part in plugin.importances[0].values()]
    return [plugin.memory_x[0]]


@pytest.mark.parametrize("first", [True, False], ids=["ours first", "theirs first"])
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", STAY)
def test_the_promise_holds_beside_another_method(name: str, other: str, first: bool) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    pair = [PLUGINS[name](), OTHERS[other]()]
    strategy = learner(model, steps, *(pair if first else pair[::-1]))
    gradients: list[Any] = []
    for experience in stream():
        steps.taken.clear()
        train(strategy, [experience])
        assert len(steps.taken) >= 3
        assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        gradients += stored(model, experience)


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("name", ["ogd", "ong-prior", "ncl", "gpm", "ewc"])
def test_neither_changes_what_the_other_keeps_of_a_task(name: str, other: str) -> None:
    """The first task is trained alike by all, so what is kept of it can be compared to the bit."""
    kept: dict[str, Any] = {}
    for who in ("both", "ours", "theirs"):
        ours, theirs = PLUGINS[name](), OTHERS[other]()
        plugins = {"both": [theirs, ours], "ours": [ours], "theirs": [theirs]}[who]
        train(learner(mlp(6, 8, 3), *plugins), stream(1))
        kept[who] = ours.statistics(), tensors(ours.method._state()), theirs
    assert kept["both"][0] == kept["ours"][0]
    for found, expected in zip(kept["both"][1], kept["ours"][1], strict=True):
        assert torch.equal(found, expected)
    for found, expected in zip(knowledge(kept["both"][2]), knowledge(kept["theirs"][2]), strict=True):
        assert torch.equal(found, expected)


def tensors(state: Any) -> list[Tensor]:
    """All tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, list | tuple) else ()
    return [tensor for part in parts for tensor in tensors(part)]


class Noted(SupervisedPlugin):  # type: ignore[misc]
    """The gradient after the hooks of the plugins before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in strategy.model.parameters()]))


def test_what_is_projected_is_the_gradient_that_the_others_made() -> None:
    """A violated GEM constraint changes g first, then OGD projects it: v = P g_GEM."""
    first, second = stream(2)
    model = mlp(6, 8, 3)
    raw, noted, steps = Noted(), Noted(), Steps()
    gem = GEMPlugin(patterns_per_experience=6, memory_strength=0.5)
    ours = OGD(directions_per_task=4)
    strategy = learner(model, ours, steps, raw, gem, noted, batch=EXAMPLES, epochs=40, lr=0.2)
    train(strategy, [first])
    strategy.train_epochs = 2
    memory = copy.deepcopy(ours.method.memory)
    steps.taken.clear()
    train(strategy, [second])
    gradient = noted.seen[-1]
    assert torch.dist(gradient, raw.seen[-1]) > 0.01 * gradient.norm()  # GEM had something to do
    columns = []
    for unit in torch.eye(4, dtype=torch.float64):
        columns.append(torch.cat([torch.cat([m[:, :-1].flatten(), m[:, -1]]) for m in memory.combine(unit).values()]))
    q = torch.linalg.qr(torch.stack(columns, 1)).Q
    expected = -0.2 * (gradient - q @ (q.T @ gradient))
    found = torch.cat([part.flatten() for part in steps.taken[-1].values()])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "momentum", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.3}], ids=str
)
@pytest.mark.parametrize("name", STAY)
def test_a_whole_task_with_momentum_moves_no_stored_output_at_first_order(name: str, momentum: Any) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    strategy = learner(model, steps, PLUGINS[name](), epochs=3, lr=0.02, **momentum)
    gradients: list[Any] = []
    for experience in stream():
        steps.taken.clear()
        train(strategy, [experience])
        if gradients:
            assert leak(gradients, total(steps.taken)) < EXACT
            assert all(leak(gradients, step) < EXACT for step in steps.taken)
        gradients += stored(model, experience)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [(torch.optim.Adam, {}), (torch.optim.AdamW, {}), (torch.optim.SGD, {"weight_decay": 0.1})],
)
@pytest.mark.parametrize("name", STAY)
def test_other_optimizers_keep_the_promise_too(name: str, optimizer: Any, options: dict[str, float]) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    strategy = learner(model, steps, PLUGINS[name]())
    strategy.optimizer = optimizer(model.parameters(), lr=0.01, **options)
    gradients: list[Any] = []
    for experience in stream():
        steps.taken.clear()
        train(strategy, [experience])
        assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        gradients += stored(model, experience)


class Clipping(Naive):  # type: ignore[misc]
    """Clips in the step itself."""

    def optimizer_step(self) -> None:
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.05)
        self.optimizer.step()


class Scaling(Naive):  # type: ignore[misc]
    """As a gradient scaler for half precision does."""

    def backward(self) -> None:
        (1024 * self.loss).backward()

    def optimizer_step(self) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= 1024
        self.optimizer.step()


class Accumulating(Naive):  # type: ignore[misc]
    """Steps at every third batch."""

    def training_epoch(self, **kwargs: Any) -> None:
        self._stop_training = False
        for place, batch in enumerate(self.dataloader):
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            if place % 3 == 0:
                self.optimizer.zero_grad()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.criterion() / 3
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
            if place % 3 == 2:
                self._before_update(**kwargs)
                self.optimizer_step()
                self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


@pytest.mark.parametrize("kind", [Clipping, Scaling, Accumulating])
@pytest.mark.parametrize("name", STAY)
def test_strategies_that_step_in_their_own_way_keep_the_promise(name: str, kind: type[Naive]) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    strategy = learner(model, steps, PLUGINS[name](), kind=kind, epochs=2)
    gradients: list[Any] = []
    for experience in stream():
        steps.taken.clear()
        train(strategy, [experience])
        assert len(steps.taken) == (2 if kind is Accumulating else 6)
        assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        gradients += stored(model, experience)


@pytest.mark.parametrize("name", ["ogd", "ncl", "ewc", "si", "gpm"])
def test_scaled_and_accumulated_batches_end_where_plain_ones_do(name: str) -> None:
    ends = []
    for kind, batch in ((Naive, EXAMPLES), (Scaling, EXAMPLES), (Accumulating, EXAMPLES // 3)):
        model = mlp(6, 12, 3)
        train(learner(model, PLUGINS[name](), kind=kind, batch=batch, epochs=3), stream())
        ends.append(weights(model))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-8, atol=1e-10)  # Avalanche sums losses in float32 on the way


@pytest.mark.parametrize("kind", [Replay, GDumb, AGEM])
def test_strategies_with_buffers_of_their_own_train_and_the_task_is_kept_from_its_own_examples(kind: Any) -> None:
    """What is stored of a task is drawn from its experience, whatever the strategy trains on."""
    model, steps, plugin = mlp(6, 12, 3), Steps(), OGD(directions_per_task=EXAMPLES)
    options: dict[str, Any] = {"mem_size": 8}
    if kind is AGEM:
        options = {"patterns_per_exp": 6, "sample_size": 4}
    strategy = kind(
        model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.05), criterion=nn.CrossEntropyLoss(),
        train_mb_size=4, plugins=[steps, plugin], **options,
    )  # fmt: skip
    gradients: list[Any] = []
    for experience in stream():
        steps.taken.clear()
        train(strategy, [experience])
        if kind is not GDumb:  # which begins each task with a new model, in which nothing old is left
            assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        gradients += stored(strategy.model, experience)
    assert len(plugin.method.memory) == 3 * EXAMPLES
