"""Layers that are not what they look like, and layers that change between tasks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.models import IncrementalClassifier
from harness import learner, tasks
from measured import Steps, leak, stored
from nets import mlp, seeded
from torch import Tensor, nn

from ong.curvature import DiagonalPenalty, UnsupportedLayerError, find_blocks
from ong.errors import UserError
from ong.plugins import EWC, FOPNG, GPM, NCL, OGD, ONG, OWM
from ong.streams import TaskData, benchmark_from_tensors

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")

EXAMPLES = 12
PLUGINS: dict[str, Callable[..., Any]] = {
    "ogd": lambda **o: OGD(directions_per_task=EXAMPLES, **o),
    "ong-prior": lambda **o: ONG(directions_per_task=EXAMPLES, **o),
    "ong": lambda **o: ONG(metric="current", memory="natural", projection="euclidean", **o),
    "ncl": lambda **o: NCL(**o),
    "fopng": lambda **o: FOPNG(directions_per_task=EXAMPLES, **o),
    "gpm": lambda **o: GPM(threshold=1.0, **o),
    "owm": lambda **o: OWM(alpha=1e-8, **o),
    "ewc": lambda **o: EWC(**o),
    "ewc, online": lambda **o: EWC(mode="online", **o),
    "ewc, ekfac": lambda **o: EWC(penalty="ekfac", **o),
    "ewc, ekfac, online": lambda **o: EWC(penalty="ekfac", mode="online", **o),
}
every = pytest.mark.parametrize("name", PLUGINS)
EXACT = (OGD, GPM)
"""Those whose steps leave the examples' outputs where they are, at first order."""


class Standardised(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Linear(6, 9), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(torch.tanh(self.code(x)), self.code.weight.t()))


class DropConnect(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Linear(6, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.dropout(self.code.weight, 0.2, self.training)
        return self.head(torch.tanh(F.linear(x, weight, self.code.bias)))


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a forward of its own": (lambda: nn.Sequential(Standardised(6, 9), nn.Tanh(), nn.Linear(9, 3)), "0"),
    "tied by a function": (Tied, "code"),
    "called as a function": (DropConnect, "code"),
}
others = pytest.mark.parametrize("kind", OTHERS)


@every
@others
def test_a_layer_whose_weights_act_in_another_way_is_refused_by_name(name: str, kind: str) -> None:
    make, layer = OTHERS[kind]
    model = make().double()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(UnsupportedLayerError, match=f"module '{layer}' of type .*unsupported='ignore'"):
        learner(model, PLUGINS[name]()).train(tasks(1).train_stream[0], eval_streams=[])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@others
def test_ignored_its_plain_gradient_is_kept_and_the_others_are_projected(kind: str) -> None:
    make, layer = OTHERS[kind]
    torch.manual_seed(0)
    model, steps = make().double(), Steps()
    first, second = tasks(2, examples=EXAMPLES).train_stream
    strategy = learner(model, steps, OGD(directions_per_task=EXAMPLES, unsupported="ignore"))
    with pytest.warns(UserWarning, match=f"module '{layer}'.*its plain gradient is used"):
        strategy.train(first, eval_streams=[])
    for parameter in model.get_submodule(layer).parameters():
        parameter.requires_grad_(False)
    gradients = stored(model, first)  # of the others
    steps.taken.clear()
    strategy.train(second, eval_streams=[])
    assert max(leak(gradients, step) for step in steps.taken) < 1e-6


def run(plugin: Any, model: nn.Module, *changes: Callable[[], Any]) -> None:
    """Train a task, then one after each change; of the exact methods no step then moves an output of the first."""
    steps = Steps()
    first, *others = tasks(len(changes) + 1, examples=EXAMPLES, width=30).train_stream
    strategy = learner(model, steps, plugin, batch=4)
    strategy.train(first, eval_streams=[])
    gradients = stored(model, first)
    for change, experience in zip(changes, others, strict=True):
        change()
        steps.taken.clear()
        strategy.train(experience, eval_streams=[])
        leaks = [leak(gradients, step) for step in steps.taken]
        assert len(leaks) == EXAMPLES / 4
        assert max(leaks) < (
            1e-6 if isinstance(plugin, EXACT) or (type(plugin) is ONG and plugin.metric == "prior") else 1
        )


def widen(model: nn.Sequential) -> None:
    """Give the hidden layer five more units, without a change of the function."""
    first, last = nn.Linear(30, 25).double(), nn.Linear(25, 3).double()
    with torch.no_grad():
        for new, old in ((first, model[0]), (last, model[2])):
            for parameter in new.parameters():
                parameter.zero_()
            new.weight[: len(old.weight), : old.weight.shape[1]] = old.weight
            new.bias[: len(old.bias)] = old.bias
    model[0], model[2] = first, last


@every
def test_inputs_that_a_layer_gains_beside_a_bias_are_refused(name: str) -> None:
    model = mlp(30, 20, 3)
    with pytest.raises(UserError, match="layer '2' had 20 trainable columns of weights and 1 of biases"):
        run(PLUGINS[name](), model, lambda: widen(model))


@every
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_half_a_layer_frozen_after_a_task_is_refused(name: str, part: str) -> None:
    model = mlp(30, 20, 3)
    with pytest.raises(UserError, match="freeze a layer as a whole"):
        run(PLUGINS[name](), model, lambda: getattr(model[0], part).requires_grad_(False))


@every
def test_a_layer_that_is_gone_is_named(name: str) -> None:
    model = mlp(30, 20, 3)
    with pytest.raises(UserError, match="layers that the model no longer has: 2"):
        run(PLUGINS[name](), model, lambda: model.__delitem__(2))


@every
def test_a_bias_may_begin_to_train(name: str) -> None:
    model = mlp(30, 20, 3)
    model[0].bias.requires_grad_(False)
    run(PLUGINS[name](), model, lambda: model.requires_grad_(True))


@every
def test_a_whole_layer_may_be_frozen_and_trained_again(name: str) -> None:
    model = mlp(30, 20, 3)
    run(PLUGINS[name](), model, lambda: model[0].requires_grad_(False), lambda: model[0].requires_grad_(True))


@pytest.mark.parametrize("name", [name for name in PLUGINS if name not in ("gpm", "owm")])  # of layers with inputs only
def test_a_normalisation_may_be_trained_from_a_later_task_on(name: str) -> None:
    """Directions of the first task are zero there, beside those that are kept as matrices."""
    layers = nn.Linear(30, 20), nn.LayerNorm(20), nn.Tanh(), nn.Linear(20, 3)
    model = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0))
    model[1].requires_grad_(False)
    train = lambda: model[1].requires_grad_(True)  # noqa: E731
    run(PLUGINS[name](), model, train, lambda: model[1].requires_grad_(False), train)


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(30, 16), nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.words(x))).mean(1))


@every
def test_sequences_may_have_another_length_in_another_task(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for length in (4, 9, 1):
        x, y = (
            torch.randint(0, n, shape, generator=generator) for n, shape in ((30, (EXAMPLES, length)), (3, (EXAMPLES,)))
        )
        parts.append(TaskData((x, y), (x, y)))
    options = {"unsupported": "ignore"} if name in ("gpm", "owm") else {}
    model, steps = seeded(Sequences(), generator), Steps()
    strategy = learner(model, steps, PLUGINS[name](**options), batch=4)
    gradients: list[Any] = []
    for experience in benchmark_from_tensors(parts).train_stream:
        steps.taken.clear()
        strategy.train(experience, eval_streams=[])
        if name in ("ogd", "ong-prior"):
            assert all(leak(gradients, step) < 1e-6 for step in steps.taken if gradients)
        gradients += stored(model, experience)


def test_ewc_counts_the_tasks_of_online_streams_and_of_several_benchmarks() -> None:
    for options in ({}, {"mode": "online"}, {"penalty": "ekfac"}, {"penalty": "ekfac", "mode": "online"}):
        stream = tasks(2).train_stream
        found = []
        for pieces in (False, True):
            plugin = EWC(**options)
            strategy = learner(mlp(6, 5, 3), plugin, lr=1e-12)
            parts = split_online_stream(stream, experience_size=4, access_task_boundaries=True) if pieces else stream
            for experience in parts:
                strategy.train(experience, eval_streams=[])
            assert len(plugin.tasks_seen) == 2
            found.append(torch.cat([part.flatten() for p in plugin.penalties for part in _curvature(p)]))
        torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)
        strategy.train(tasks(2, seed=1).train_stream[0], eval_streams=[])
        assert len(plugin.tasks_seen) == 3


def _curvature(penalty: Any) -> list[Tensor]:
    if isinstance(penalty, DiagonalPenalty):
        return list(penalty.curvature.values())
    return [block.eigenvalues for block in penalty.ekfac.blocks.values()]


def test_ewc_refuses_an_online_stream_that_hides_its_tasks() -> None:
    (piece, *_) = split_online_stream(tasks(1).train_stream, experience_size=4)
    with pytest.raises(UserError, match="EWC keeps something from each finished task"):
        learner(mlp(6, 5, 3), EWC()).train(piece, eval_streams=[])


@pytest.mark.parametrize("eigenbasis", [True, False])
def test_ncl_draws_rows_that_a_head_has_gained_nowhere(eigenbasis: bool) -> None:
    """The Fisher is zero there, so the step is the gradient."""
    off: list[float] = []

    class Looking(SupervisedPlugin):  # type: ignore[misc]
        coordinate_free = True

        def after_backward(self, strategy: Any, **kwargs: Any) -> None:
            self.gradient = self._new_rows(strategy)

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            off.extend((self._new_rows(strategy) - self.gradient).abs().flatten().tolist())

        def _new_rows(self, strategy: Any) -> Tensor:
            return find_blocks(strategy.model)["2.classifier"].gradient()[2:].clone()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), IncrementalClassifier(8))
    parts = []
    for task in range(2):
        x, y = torch.randn(EXAMPLES, 6), torch.arange(EXAMPLES) % 2 + 2 * task
        parts.append(TaskData((x, y), (x, y)))
    strategy = learner(model, Looking(), NCL(damping=1.0, eigenbasis=eigenbasis), batch=4, epochs=3)
    first, second = benchmark_from_tensors(parts).train_stream
    strategy.train(first, eval_streams=[])
    off.clear()
    strategy.train(second, eval_streams=[])
    assert len(off) == 9 * 2 * 9
    assert max(off) < 1e-5  # float32
