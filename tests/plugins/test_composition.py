"""Our plugins beside others, beside momentum and clipping, in online streams: neither disturbs the other."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import EvaluationPlugin, EWCPlugin, GEMPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import Naive
from harness import learner, tasks, weights
from measured import GUARANTEED, PRESETS, HeldSteps, Steps, leak, stored, total
from nets import mlp
from torch import nn

from ong.errors import UserError
from ong.plugins import OGD, ONG
from ong.streams import InMemoryLoader

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:Call to deprecated")

EXAMPLES = 12
EXACT = 1e-6  # float64; GᵀG squares the condition of G, of which 1e-6 is cut


def stream(count: int = 3, **options: Any) -> Any:
    return tasks(count, examples=EXAMPLES, **options).train_stream


def after(strategy: Any, experiences: Any) -> None:
    torch.manual_seed(0)  # Avalanche's loaders and buffers draw from the global generator
    for experience in experiences:
        strategy.train(experience, eval_streams=[])


OTHERS: dict[str, Callable[[], SupervisedPlugin]] = {
    "replay": lambda: ReplayPlugin(mem_size=8),
    "lwf": lambda: LwFPlugin(alpha=2.0, temperature=1.5),
    "ewc": lambda: EWCPlugin(ewc_lambda=50.0),
    "gem": lambda: GEMPlugin(patterns_per_experience=6, memory_strength=0.3),
}


def knowledge(plugin: Any) -> list[torch.Tensor]:
    """What each of Avalanche's plugins has kept of the first task."""
    if isinstance(plugin, ReplayPlugin):
        return [torch.stack([item[0] for item in plugin.storage_policy.buffer])]
    if isinstance(plugin, LwFPlugin):
        return [weights(plugin.lwf.prev_model)]
    if isinstance(plugin, EWCPlugin):
        return [part.data for part in plugin.importances[0].values()]
    return [plugin.memory_x[0]]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("preset", GUARANTEED)
def test_the_guarantee_holds_beside_another_method(preset: str, other: str) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    strategy = learner(model, steps, OTHERS[other](), PRESETS[preset](directions_per_task=EXAMPLES), batch=4)
    experiences, gradients = stream(), []
    for experience in experiences:
        steps.taken.clear()
        after(strategy, [experience])
        assert len(steps.taken) >= 3
        assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        gradients += stored(model, experience)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("preset", ["ogd", "ong", "ong-prior"])
def test_neither_changes_what_the_other_keeps_of_a_task(preset: str, other: str) -> None:
    """The first task is trained alike by all, so what is kept of it can be compared to the bit."""
    kept: dict[str, Any] = {}
    for name in ("both", "ours", "theirs"):
        ours, theirs = PRESETS[preset](directions_per_task=4), OTHERS[other]()
        if preset == "ong":  # preconditions the first task too: leave its steps as they are
            ours._rewrite = lambda strategy: None
        plugins = {"both": [theirs, ours], "ours": [ours], "theirs": [theirs]}[name]
        strategy = learner(mlp(6, 8, 3), *plugins, batch=4)
        after(strategy, stream(1))
        kept[name] = ours, theirs
    v = {name: torch.ones(*rows.shape, dtype=torch.float64) for name, rows in kept["ours"][0].memory.rows.items()}
    assert torch.equal(kept["both"][0].memory.dot(v), kept["ours"][0].memory.dot(v))
    assert torch.equal(kept["both"][0].memory.gram(), kept["ours"][0].memory.gram())
    for found, expected in zip(knowledge(kept["both"][1]), knowledge(kept["theirs"][1]), strict=True):
        assert torch.equal(found, expected)


class Noted(SupervisedPlugin):
    """The gradient after the hooks of the plugins before it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        self.seen.append(torch.cat([p.grad.flatten() for p in strategy.model.parameters()]))


def test_what_reaches_us_is_the_gradient_that_the_plugin_before_us_made() -> None:
    """A violated GEM constraint changes g first, then OGD projects it: v = P g_GEM."""
    experiences = stream(2)
    model = mlp(6, 8, 3)
    raw, noted, steps = Noted(), Noted(), Steps()
    gem = GEMPlugin(patterns_per_experience=6, memory_strength=0.5)
    ours = OGD(directions_per_task=4)
    strategy = learner(model, steps, raw, gem, noted, ours, batch=EXAMPLES, epochs=40, lr=0.2)
    after(strategy, experiences[:1])
    strategy.train_epochs = 2
    projection = copy.deepcopy(ours.memory)
    steps.taken.clear()
    after(strategy, experiences[1:])
    gradient = noted.seen[-1]
    assert torch.dist(gradient, raw.seen[-1]) > 0.01 * gradient.norm()  # GEM had something to do
    units = torch.eye(4, dtype=torch.float64)
    columns = []
    for unit in units:
        parts = projection.combine(unit)
        columns.append(torch.cat([torch.cat([m[:, :-1].flatten(), m[:, -1]]) for m in parts.values()]))
    q = torch.linalg.qr(torch.stack(columns, 1)).Q
    expected = -0.2 * (gradient - q @ (q.T @ gradient))
    found = torch.cat([part.flatten() for part in steps.taken[-1].values()])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    "momentum", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.5, "dampening": 0.3}]
)
@pytest.mark.parametrize("preset", GUARANTEED)
@pytest.mark.parametrize("spy", [Steps, HeldSteps])
def test_a_whole_task_with_momentum_moves_no_stored_output_at_first_order(
    spy: type[Steps], preset: str, momentum: Any
) -> None:
    model, steps = mlp(6, 12, 3), spy()
    strategy = learner(
        model, steps, PRESETS[preset](directions_per_task=EXAMPLES), batch=4, epochs=3, lr=0.02, **momentum
    )
    gradients: list[Any] = []
    for experience in stream():
        steps.taken.clear()
        after(strategy, [experience])
        if gradients:
            assert leak(gradients, total(steps.taken)) < EXACT
            assert all(leak(gradients, step) < EXACT for step in steps.taken)
        gradients += stored(model, experience)


def test_momentum_that_outlived_its_task_would_leak() -> None:
    """The counter-example: the buffer that is cleared, put back."""
    model, steps = mlp(6, 12, 3), Steps()
    experiences = stream(2)
    buffers: list[Any] = []

    class Keep(SupervisedPlugin):
        def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            buffers.append({p: dict(state) for p, state in strategy.optimizer.state.items()})

    strategy = learner(model, steps, Keep(), OGD(directions_per_task=EXAMPLES), batch=4, momentum=0.9)
    after(strategy, experiences[:1])
    assert not any("momentum_buffer" in state for state in strategy.optimizer.state.values())
    gradients = stored(model, experiences[0])
    strategy.optimizer.state.update(buffers[0])
    steps.taken.clear()
    after(strategy, experiences[1:])
    assert leak(gradients, steps.taken[0]) > 0.05


class Clip(SupervisedPlugin):
    """Scales the gradient as a whole to a norm."""

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        nn.utils.clip_grad_norm_(strategy.model.parameters(), 0.1)


class LateClip(SupervisedPlugin):
    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        nn.utils.clip_grad_norm_(strategy.model.parameters(), 0.1)


@pytest.mark.parametrize("preset", GUARANTEED)
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.filterwarnings("ignore:LateClip")
def test_clipping_the_norm_before_or_after_keeps_the_guarantee(preset: str, late: bool) -> None:
    model, steps, ours = mlp(6, 12, 3), Steps(), PRESETS[preset](directions_per_task=EXAMPLES)
    strategy = learner(model, steps, *([ours, LateClip()] if late else [Clip(), ours]), batch=4)
    experiences = stream(2)
    after(strategy, experiences[:1])
    gradients = stored(model, experiences[0])
    steps.taken.clear()
    after(strategy, experiences[1:])
    assert all(leak(gradients, step) < EXACT for step in steps.taken)


def test_a_plugin_that_changes_gradients_after_us_is_named_once() -> None:
    strategy = learner(mlp(6, 8, 3), LateClip(), OGD(), LateClip(), Clip())
    with pytest.warns(UserWarning, match=r"LateClip\.before_update runs after OGD.*put OGD last") as caught:
        after(strategy, stream())
    assert len([w for w in caught if "runs after" in str(w.message)]) == 1


@pytest.mark.parametrize(
    ("optimizer", "options", "reason", "remedy"),
    [
        (torch.optim.Adam, {}, "rescales coordinates", "use torch.optim.SGD"),
        (torch.optim.SGD, {"weight_decay": 0.1}, "moves old outputs", "use weight_decay=0"),
    ],
)
def test_optimizers_that_undo_the_projection_warn_once(optimizer: Any, options: Any, reason: str, remedy: str) -> None:
    model = mlp(6, 12, 3)
    steps = Steps()
    strategy = Naive(
        model=model, optimizer=optimizer(model.parameters(), lr=0.01, **options), criterion=nn.CrossEntropyLoss(),
        train_mb_size=4, plugins=[steps, OGD(directions_per_task=EXAMPLES)], evaluator=EvaluationPlugin(),
    )  # fmt: skip
    experiences = stream(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after(strategy, experiences[:1])
        gradients = stored(model, experiences[0])
        steps.taken.clear()
        after(strategy, experiences[1:])
    assert len([w for w in caught if reason in str(w.message) and remedy in str(w.message)]) == 1
    assert max(leak(gradients, step) for step in steps.taken) > 1e-3  # the warning is true


def online(experiences: Any, size: int, **options: Any) -> Any:
    return split_online_stream(experiences, experience_size=size, seed=0, **{"access_task_boundaries": True} | options)


@pytest.mark.parametrize("size", [4, 5])  # 5 leaves a shorter last piece; with 4 Avalanche marks none as the last
@pytest.mark.parametrize("preset", GUARANTEED)
@pytest.mark.parametrize("spy", [Steps, HeldSteps])  # the latter trains in the eigenbasis, inputs rotated ahead
def test_an_online_task_is_kept_at_its_end_and_as_a_whole(spy: type[Steps], preset: str, size: int) -> None:
    model, steps, plugin = mlp(6, 12, 3), spy(), PRESETS[preset](directions_per_task=EXAMPLES)
    strategy = learner(model, InMemoryLoader(), steps, plugin, batch=2)
    experiences = stream()
    pieces, gradients, counts = -(-EXAMPLES // size), [], []
    for place, piece in enumerate(online(experiences, size)):
        steps.taken.clear()
        strategy.train(piece, eval_streams=[])
        counts.append(len(plugin.memory))
        assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        if (place + 1) % pieces == 0:
            gradients += stored(model, experiences[place // pieces])
    assert counts == [EXAMPLES * ((place + 1) // pieces) for place in range(3 * pieces)]
    assert len(plugin.tasks_seen) == 3
    if spy is HeldSteps and preset != "ogd":
        assert plugin.plain_because is None


def test_an_online_task_leaves_what_an_ordinary_one_would_at_the_same_weights() -> None:
    """Its directions are drawn from the whole task, by the same generator."""
    plugin, other = OGD(directions_per_task=5), OGD(directions_per_task=5)
    (experience,) = stream(1)
    model = mlp(6, 8, 3)
    learn = learner(model, plugin, batch=2, lr=0.0)
    for piece in online([experience], 4):
        learn.train(piece, eval_streams=[])
    after(learner(mlp(6, 8, 3), other, lr=0.0), [experience])
    assert torch.equal(plugin.memory.gram(), other.memory.gram())
    assert plugin.tasks_seen == other.tasks_seen


def test_the_current_metric_is_taken_from_the_piece_at_hand_and_refreshed_across_pieces() -> None:
    """Data that have not come yet are not looked at, and the steps are counted over the task."""
    seen = []

    class Watched(ONG):
        def _refresh(self, strategy: Any) -> None:
            seen.append((self._step, len(strategy.experience.dataset)))
            super()._refresh(strategy)

    strategy = learner(mlp(6, 8, 3), Watched(metric="current", projection="none", refresh_every=3), batch=2)
    for piece in online(stream(2), 4):  # two steps a piece
        strategy.train(piece, eval_streams=[])
    assert seen == [(0, 4), (3, 4)] * 2


def test_online_streams_that_hide_their_boundaries_are_refused_with_the_remedy() -> None:
    strategy = learner(mlp(6, 8, 3), OGD())
    piece = next(iter(online(stream(1), 4, access_task_boundaries=False)))
    with pytest.raises(UserError, match=r"OGD keeps .* pass access_task_boundaries=True to split_online_stream"):
        strategy.train(piece, eval_streams=[])


def test_training_twice_on_a_task_stores_once_and_tasks_of_other_streams_are_others() -> None:
    plugin = OGD(directions_per_task=4)
    strategy = learner(mlp(6, 8, 3), plugin)
    first, second = tasks(2, examples=EXAMPLES, seed=0), tasks(2, examples=EXAMPLES, seed=1)
    counts = []
    for experience in (
        first.train_stream[0], first.train_stream[0], second.train_stream[0], first.test_stream[0],
        first.train_stream[1], second.train_stream[0],
    ):  # fmt: skip
        after(strategy, [experience])
        counts.append(len(plugin.memory))
    assert counts == [4, 4, 8, 12, 16, 16]


@pytest.mark.parametrize("preset", GUARANTEED)
@pytest.mark.parametrize("pieces", [False, True])
def test_training_again_on_a_kept_task_is_projected_off_it(preset: str, pieces: bool) -> None:
    model, steps = mlp(6, 12, 3), HeldSteps()
    strategy = learner(model, steps, PRESETS[preset](directions_per_task=EXAMPLES), batch=4)
    (experience,) = stream(1)
    parts = list(online([experience], 6)) if pieces else [experience]
    after(strategy, parts)
    gradients = stored(model, experience)
    for again in (parts, parts[-1:]):
        steps.taken.clear()
        after(strategy, again)
        assert steps.taken
        assert all(leak(gradients, step) < EXACT for step in steps.taken)


@pytest.mark.parametrize("preset", ["ogd", "ong-prior"])
def test_the_first_task_is_trained_as_without_us_to_the_bit(preset: str) -> None:
    """Nothing is read, copied or written while there is nothing to project off."""
    found = []
    for plugins in ([], [PRESETS[preset]()]):
        model = mlp(6, 8, 3)
        for plugin in plugins:
            plugin._update = None  # would fail if it were called
        after(learner(model, *plugins), stream(1))
        found.append(weights(model))
    assert torch.equal(*found)
