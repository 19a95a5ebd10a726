"""Layers that change between tasks: what may, and what is refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods.matrices import Learner, Task, leak, task, tasks
from nets import flat, mlp, seeded
from torch import Tensor, nn

from ong.curvature import PROBED
from ong.errors import UserError
from ong.methods import EWC, FOPNG, GPM, NCL, OGD, ONG, OWM, SGP, SI, Method, ONGPrior
from ong.methods.data import Examples

EXAMPLES = 12
METHODS: dict[str, Callable[[], Method]] = {
    "ogd": lambda: OGD(directions_per_task=EXAMPLES),
    "ogd, leading": lambda: OGD(directions_per_task=EXAMPLES - 1, examples_per_task=EXAMPLES, keep="leading"),
    "ong-prior": lambda: ONGPrior(directions_per_task=EXAMPLES, damping=1.0),
    "ong": lambda: ONG(directions_per_task=EXAMPLES, damping=1.0),
    "ncl": lambda: NCL(damping=1.0),
    "fopng": lambda: FOPNG(directions_per_task=EXAMPLES),
    "gpm": lambda: GPM(threshold=1.0),
    "sgp": lambda: SGP(threshold=1.0),
    "owm": lambda: OWM(alpha=1e-8),
    "ewc": EWC,
    "ewc, online": lambda: EWC(mode="online"),
    "ewc, ekfac": lambda: EWC(penalty="ekfac"),
    "ewc, ekfac, online": lambda: EWC(penalty="ekfac", mode="online"),
    "si": SI,
}
every = pytest.mark.parametrize("name", METHODS)
STAY = ("ogd", "ong-prior", "gpm")
"""Those whose steps leave all of the examples' outputs where they are, at first order."""
pytestmark = pytest.mark.filterwarnings("ignore:only Linear, Conv1d and Conv2d", "ignore:.*of the space is left")


def gradients(learner: Learner, data: Task, among: set[nn.Parameter] | None = None) -> Tensor:
    """∇h_y over the parameters that train now, by autograd example by example, zero but for some of them."""
    found = []
    for i in range(len(data[0])):
        learner.model.zero_grad()
        learner.model(data[0][i : i + 1])[0, data[1][i]].backward()
        for parameter in learner.model.parameters():
            if among is not None and parameter not in among:
                parameter.grad = None
        found.append(flat({name: block.gradient() for name, block in learner.blocks.items()}, learner.blocks))
    return torch.stack(found, 1)


def run(name: str, model: nn.Module, change: Callable[[], Any]) -> None:
    """Train a task, then one after a change; where it is promised no step moves an output of the first.

    At first order, and by the parameters that trained in the first: nothing is known of the others.
    """
    first, second = tasks(2, examples=EXAMPLES, width=30)
    learner = Learner(METHODS[name](), model, batch=4).learn(first)
    trained = {p for p in model.parameters() if p.requires_grad}
    change()
    learner.method.begin_task(second)
    at_start = gradients(learner, first, trained)
    learner.steps = []
    learner.train(second)
    learner.method.end_task()
    assert len(learner.steps) == EXAMPLES / 4
    if name in STAY:
        assert all(leak(at_start, step.update) < 1e-6 for step in learner.steps)


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


def attached(learner: Learner) -> Learner:
    """With an optimizer of the model as it is now."""
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
    learner.method.attach(learner.model, learner.optimizer)
    return learner


@every
def test_inputs_that_a_layer_gains_beside_a_bias_are_refused(name: str) -> None:
    model = mlp(30, 20, 3)
    learner = Learner(METHODS[name](), model).learn(task(EXAMPLES, 30))
    widen(model)
    with pytest.raises(UserError, match="layer '2' had 20 trainable columns of weights and 1 of biases"):
        attached(learner).method.begin_task(task(EXAMPLES, 30, seed=1))


@every
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_half_a_layer_frozen_after_a_task_is_refused(name: str, part: str) -> None:
    model = mlp(30, 20, 3)
    with pytest.raises(UserError, match="freeze a layer as a whole"):
        run(name, model, lambda: getattr(model[0], part).requires_grad_(False))


@every
def test_a_layer_that_is_gone_is_named(name: str) -> None:
    model = mlp(30, 20, 3)
    with pytest.raises(UserError, match="layers that the model no longer has: 2"):
        run(name, model, lambda: model.__delitem__(2))


class Sometimes(nn.Module):
    """A layer whose weights other code reads too, if it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.head, self.tied = nn.Linear(6, 9), nn.Linear(6, 3), False

    def forward(self, x: Tensor) -> Tensor:
        weight = self.code.weight if self.tied else self.code.weight.detach()
        logits: Tensor = self.head(torch.tanh(self.code(x)) @ weight)
        return logits


@pytest.mark.parametrize("name", ["ogd", "ong-prior"])
def test_a_layer_whose_weights_other_code_reads_from_a_later_task_on_is_held(name: str) -> None:
    learner, found = Learner(METHODS[name](), Sometimes().double(), batch=4), []
    for data, tied in zip(tasks(3, examples=EXAMPLES), (False, True, False), strict=True):
        learner.model.tied = tied
        learner.method.begin_task(data)
        learner.steps = []
        learner.train(data)
        assert all(leak(torch.cat(found, 1), step.update) < 1e-6 for step in learner.steps if found)
        found.append(gradients(learner, data))
        learner.method.end_task()


def test_a_layer_that_shares_its_weights_from_a_later_task_on_is_refused() -> None:
    first, second = tasks(2)
    learner = Learner(OGD(), Sometimes().double()).learn(first)
    learner.model.other = nn.Linear(6, 9).double()
    learner.model.other.weight = learner.model.code.weight
    with pytest.raises(UserError, match="'code' was used in another way in a past task than it is now"):
        learner.method.begin_task(second)


@every
def test_a_bias_may_begin_to_train(name: str) -> None:
    model = mlp(30, 20, 3)
    model[0].bias.requires_grad_(False)
    before = model[0].bias.detach().clone()
    run(name, model, lambda: model.requires_grad_(True))
    assert not torch.equal(model[0].bias, before)


@every
def test_a_whole_layer_may_be_frozen(name: str) -> None:
    model = mlp(30, 20, 3)
    before = model[0].weight.detach().clone()
    run(name, model, lambda: (before.copy_(model[0].weight.detach()), model[0].requires_grad_(False)))
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("name", ["ogd", "ogd, leading", "ong-prior"])
def test_a_layer_that_was_frozen_for_a_task_is_held_again_when_it_trains(name: str) -> None:
    """Its directions wait meanwhile."""
    first, second, third = tasks(3, examples=EXAMPLES, width=30)
    model = mlp(30, 20, 3)
    learner = Learner(METHODS[name](), model, batch=4).learn(first)
    learner.method.begin_task(first)
    size = learner.method.memory.bytes
    before = learner.method.memory.combine(torch.ones(len(learner.method.memory), dtype=torch.float64))
    learner.method.leave_task()
    model[0].requires_grad_(False)
    learner.learn(second)
    model[0].requires_grad_(True)
    learner.method.begin_task(third)
    memory = learner.method.memory
    assert memory.bytes > size
    count = len(memory) // 2
    ones = torch.cat([torch.ones(count), torch.zeros(count)]).double()
    for block, part in memory.combine(ones).items():
        torch.testing.assert_close(part, before[block], rtol=1e-12, atol=1e-14)
    second_part = memory.combine(1 - ones)
    assert not second_part["0"].any()
    assert second_part["2"].any()
    learner.steps = []
    learner.train(third)
    assert len(learner.steps) == EXAMPLES / 4
    for step in learner.steps:
        v = {"0": step.update[:620].reshape(20, 31), "2": step.update[620:].reshape(3, 21)}
        assert memory.dot(v).abs().max() < 1e-6 * step.update.norm()


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("gpm", "sgp", "owm")])  # of inputs only
def test_a_normalisation_may_be_trained_from_a_later_task_on(name: str) -> None:
    """Directions of the first task are zero there, beside those that are kept as matrices."""
    layers = nn.Linear(30, 20), nn.LayerNorm(20), nn.Tanh(), nn.Linear(20, 3)
    model = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0))
    model[1].requires_grad_(False)
    first, second = tasks(2, examples=EXAMPLES, width=30)
    learner = Learner(METHODS[name](), model, batch=4).learn(first)
    model[1].requires_grad_(True)
    before = model[1].weight.detach().clone()
    learner.learn(second)
    assert not torch.equal(model[1].weight, before)
    if name in STAY:
        memory = learner.method.memory
        old = memory.combine(torch.cat([torch.ones(EXAMPLES), torch.zeros(EXAMPLES)]).double())
        new = memory.combine(torch.cat([torch.zeros(EXAMPLES), torch.ones(EXAMPLES)]).double())
        assert not old["1"].any()
        assert new["1"].all()


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(30, 16), nn.Linear(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.words(x))).mean(1))


@every
def test_sequences_may_have_another_length_in_another_task(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    model = seeded(Sequences(), generator)
    learner, found = Learner(METHODS[name](), model, batch=4), []
    for length in (4, 9, 1):
        data = [
            torch.randint(0, n, shape, generator=generator) for n, shape in ((30, (EXAMPLES, length)), (3, (EXAMPLES,)))
        ]
        learner.method.begin_task(data)
        learner.steps = []
        learner.train(data)
        if name in ("ogd", "ong-prior") and found:
            assert all(leak(torch.cat(found, 1), step.update) < 1e-6 for step in learner.steps)
        found.append(gradients(learner, data))
        learner.method.end_task()
    assert learner.method.tasks == 3


def test_what_begins_to_train_after_a_task_is_told_as_nothing_of_it_is_stored() -> None:
    model = mlp(6, 8, 3)
    first, *_ = [layer for layer in model if isinstance(layer, nn.Linear)]
    first.bias.requires_grad_(False)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(24, 6, generator=generator, dtype=torch.float64), torch.arange(24) % 3]
    method = OGD(directions_per_task=4)
    with method.attach(model, sgd):
        method.begin_task(data)
        method.end_task()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method.begin_task(data)  # still frozen: nothing to tell
        method.end_task()
        first.bias.requires_grad_(True)
        with pytest.warns(UserWarning, match=r"0\.bias begin\(s\) to train"):
            method.begin_task(data)


class Routed(nn.Module):
    """Two experts, one of which each example is sent to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        to_a = x[:, 0] > 0
        hidden = x.new_zeros(len(x), 8)
        hidden[to_a], hidden[~to_a] = self.a(x[to_a]).tanh(), self.b(x[~to_a]).tanh()
        return self.last(hidden)


@pytest.mark.parametrize("make", [METHODS["ogd"], METHODS["ong-prior"]])
def test_experts_stay_what_they_were_when_all_examples_of_a_later_task_go_to_one(make: Callable[[], Method]) -> None:
    generator = torch.Generator().manual_seed(0)
    model, y = seeded(Routed(), generator), torch.arange(EXAMPLES) % 3
    mixed, alike = torch.randn(2, EXAMPLES, 4, generator=generator, dtype=torch.float64)
    alike[:, 0] = alike[:, 0].abs()
    sgd, method = torch.optim.SGD(model.parameters(), lr=0.05), make()
    parameters = list(model.parameters())

    def step(x: Tensor) -> None:
        method.begin_task([x, y])
        sgd.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        sgd.step()

    with method.attach(model, sgd, tasks=2):
        step(mixed)
        method.end_task()
        stored = [
            torch.cat([
                torch.zeros(p.numel(), dtype=torch.float64) if g is None else g.flatten()
                for g, p in zip(torch.autograd.grad(h, parameters, retain_graph=True, allow_unused=True), parameters, strict=True)
            ])
            for h in model(mixed).gather(1, y[:, None])[:, 0]
        ]  # fmt: skip
        before = torch.cat([p.detach().flatten() for p in parameters])
        step(alike)
        moved = torch.cat([p.detach().flatten() for p in parameters]) - before
        method.end_task()
    assert moved.norm() > 1e-3
    assert (torch.stack(stored) @ moved).abs().max() < 1e-12


class TokenRouted(nn.Module):
    """Two experts, each called with the tokens of its sign where there are any."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 4)
        found = torch.zeros_like(tokens)
        for sent, expert in ((tokens[:, 0] > 0, self.a), (tokens[:, 0] <= 0, self.b)):
            if sent.any():
                found = found.index_put((sent,), expert(tokens[sent]).tanh())
        logits: Tensor = self.last(found.reshape(x.shape).mean(1))
        return logits


@every
def test_experts_that_few_examples_of_a_first_task_are_sent_to_are_held_in_later_tasks(name: str) -> None:
    """None of the examples that a task begins with goes to expert b, then some do, then all."""
    generator = torch.Generator().manual_seed(0)
    model, y = seeded(TokenRouted(), generator), torch.arange(EXAMPLES) % 3
    x = torch.randn(3, EXAMPLES, 3, 4, generator=generator, dtype=torch.float64)
    x[0, :, :, 0] = x[0, :, :, 0].abs()
    seen = Examples([torch.arange(EXAMPLES)], torch.device("cpu")).probe(PROBED)[0].tolist()
    rare = next(n for n in range(EXAMPLES) if n not in seen)
    x[0, rare, 1, 0], x[2, :, :, 0] = -1, -x[2, :, :, 0].abs()
    method, sgd = METHODS[name](), torch.optim.SGD(model.parameters(), lr=0.05)
    parameters = list(model.parameters())
    stored: list[Tensor] = []
    with method.attach(model, sgd, tasks=3):
        for task in x:
            method.begin_task([task, y])
            assert {"a", "b", "last"} == {block.rpartition(".")[0] or block for block in method.blocks}
            before = torch.cat([p.detach().flatten() for p in parameters])
            sgd.zero_grad()
            nn.functional.cross_entropy(model(task), y).backward()
            sgd.step()
            moved = torch.cat([p.detach().flatten() for p in parameters]) - before
            if name in ("ogd", "ong-prior") and stored:
                assert (torch.stack(stored) @ moved).abs().max() < 1e-12
            for h in model(task).gather(1, y[:, None])[:, 0]:
                found = torch.autograd.grad(h, parameters, retain_graph=True, allow_unused=True)
                pairs = zip(found, parameters, strict=True)
                stored.append(torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in pairs]))
            method.end_task()
    assert moved.norm() > 1e-6 or name in ("gpm", "owm")  # for whom nothing is left that may move
