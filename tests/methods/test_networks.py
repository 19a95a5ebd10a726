"""Gᵀv = 0 on the networks people train, G by autograd example by example, v what the weights really did."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from methods.matrices import Learner, Task
from nets import flat
from torch import Tensor, nn

from ong.methods import EWC, FOPNG, GPM, NCL, NGD, OGD, ONG, OWM, SGP, SI, Method, OGDPlus, ONGPrior, ONGv1

EXAMPLES, CLASSES = 12, 3
EXACT = 1e-6  # float64; GᵀG squares the condition of G, of which 1e-6 is cut
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*of the space is left", "ignore:only Linear, Conv1d and Conv2d", "ignore:Using padding='same'"
)
CURRENT: dict[str, Any] = {"refresh_every": 3, "damping": 1.0}
METHODS: dict[str, Callable[[], Method]] = {
    "ogd": lambda: OGD(directions_per_task=EXAMPLES),
    "ong-v1": lambda: ONGv1(directions_per_task=EXAMPLES, **CURRENT),
    "ong-prior": lambda: ONGPrior(directions_per_task=EXAMPLES, damping=0.05),
    "ogd+": lambda: OGDPlus(directions_per_task=EXAMPLES),
    "ngd": lambda: NGD(**CURRENT),
    "ong": lambda: ONG(directions_per_task=4, **CURRENT),
    "ncl": lambda: NCL(damping=1.0),
    "fopng": lambda: FOPNG(directions_per_task=4, corrected=True, **CURRENT),
    "owm": OWM,
    "gpm": lambda: GPM(threshold=0.8),
    "sgp": SGP,
    "ewc": lambda: EWC(strength=0.1),
    "ewc, ekfac": lambda: EWC(strength=0.1, penalty="ekfac", mode="online"),
    "si": SI,
}
STAY = ("ogd", "ogd+", "ong-v1", "ong-prior")


class Twice(nn.Module):
    """One layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.shared(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.shared(h)))


class Standardised(nn.Linear):
    """Uses its weight in another way than its type does."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight - self.weight.mean(1, keepdim=True), self.bias)


class Tied(nn.Module):
    """Reads a layer's weight a second time, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Linear(6, 9), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.linear(torch.tanh(self.code(x)), self.code.weight.t()))


class DropConnect(nn.Module):
    """Never calls its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.head = nn.Linear(6, 9), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.dropout(self.code.weight, 0.2, self.training)
        return self.head(torch.tanh(F.linear(x, weight, self.code.bias)))


class ByName(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 9), nn.Linear(9, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(input=torch.tanh(self.body(input=x)))


class Unused(nn.Module):
    """Passes its input on, and has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(2, 4, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x, x, x, need_weights=False)[0].mean(1))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    return model


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 9), *between, nn.Tanh(), nn.Linear(9, CLASSES))


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (6,)
    dtype: torch.dtype = torch.float64
    options: Any = MappingProxyType({})
    leak: float = EXACT


CASES = {
    "plain": Case(mlp),
    "dropout": Case(lambda: mlp(nn.Dropout(0.5))),
    "batch norm": Case(lambda: mlp(nn.BatchNorm1d(9))),
    "layer norm": Case(lambda: mlp(nn.LayerNorm(9))),
    "a layer used twice": Case(Twice),
    "a layer with a forward of its own": Case(lambda: nn.Sequential(Standardised(6, 9), nn.Tanh(), nn.Linear(9, CLASSES))),
    "weights tied by a function": Case(Tied),
    "a layer called as a function": Case(DropConnect),
    "layers called by keyword": Case(ByName),
    "a frozen layer": Case(lambda: frozen(mlp(), "0.weight", "0.bias")),
    "a frozen weight": Case(lambda: frozen(mlp(), "0.weight")),
    "a layer that is never used": Case(lambda: nn.Sequential(mlp(), Unused())),
    "a parameter of an activation": Case(lambda: mlp(nn.PReLU())),
    "convolutions": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 2, dilation=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES),
        ),
        (2, 16, 16),
    ),
    "a transposed convolution": Case(
        lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 25, CLASSES)), (1, 4, 4)
    ),
    "convolutions in one dimension": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(21, CLASSES)),
        (2, 7),
    ),
    "an embedding": Case(
        lambda: nn.Sequential(nn.Embedding(11, 5), nn.Flatten(), nn.Tanh(), nn.Linear(20, CLASSES)), (4,), torch.long
    ),
    "a recurrent net": Case(Recurrent, (5, 2)),
    "attention": Case(Attention, (5, 4)),
    "float32": Case(mlp, dtype=torch.float32, leak=1e-3),  # 24 bits in the factors and in what is written
}  # fmt: skip


def stream(case: Case, count: int = 2, seed: int = 0) -> list[Task]:
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        if case.dtype == torch.long:
            x = torch.randint(0, 11, (EXAMPLES, *case.shape), generator=generator)
        else:
            x = torch.randn(EXAMPLES, *case.shape, generator=generator, dtype=torch.float64).to(case.dtype)
        found.append([x, torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)])
    return found


def built(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.make().to(torch.float64 if case.dtype == torch.long else case.dtype)


def stored(learner: Learner, data: Task) -> Tensor:
    """∇h_y of every example, one backward pass each, in eval mode, in columns of length one."""
    modes = [(module, module.training) for module in learner.model.modules()]
    learner.model.eval()
    found = []
    for i in range(len(data[0])):
        learner.model.zero_grad()
        learner.model(data[0][i : i + 1])[0, data[1][i]].backward()
        found.append(flat({name: block.gradient() for name, block in learner.blocks.items()}, learner.blocks))
    for module, training in modes:
        module.training = training
    g = torch.stack(found, 1).double()
    return g / g.norm(dim=0)


def leaks(method: Method, case: Case) -> list[float]:
    """max_i |g_iᵀv|/‖v‖ of each step of the second task against every example of the first."""
    first, second = stream(case)
    torch.manual_seed(1)  # dropout
    learner = Learner(method, built(case), batch=4).learn(first)
    learner.method.begin_task(second)
    gradients = stored(learner, first)
    learner.steps = []
    learner.train(second, epochs=2)
    return [
        float((gradients.T @ step.update.double()).abs().max() / step.update.double().norm()) for step in learner.steps
    ]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", STAY)
def test_no_step_moves_a_stored_output_at_first_order(name: str, case: str) -> None:
    found = leaks(METHODS[name](), CASES[case])
    assert len(found) == 6
    assert max(found) < CASES[case].leak


@pytest.mark.parametrize("case", CASES)
def test_a_plain_gradient_does(case: str) -> None:
    assert min(leaks(EWC(strength=0.0), CASES[case])) > 0.05


@pytest.mark.parametrize("name", STAY)
def test_bfloat16_parameters_are_projected_to_their_precision(name: str) -> None:
    """The update has 24 bits; what is written into weights is rounded to 8, so it is looked at before that."""
    case = Case(mlp, dtype=torch.bfloat16)
    first, second = stream(case)
    learner = Learner(METHODS[name](), built(case), batch=4).learn(first).begin(second)
    gradients = stored(learner, first)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        g = {n: torch.randn(block.shape, generator=generator) for n, block in learner.blocks.items()}
        v = learner.method.update(g)
        rounded = flat({n: part.bfloat16().double() for n, part in v.items()}, learner.blocks)
        plain = flat(g, learner.blocks).double()
        assert (gradients.T @ rounded).abs().max() < 0.02 * rounded.norm()
        assert (gradients.T @ plain).abs().max() > 0.1 * plain.norm()
    learner.train(second)
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in learner.model.parameters())


@torch.no_grad()
def loss(model: nn.Module, data: Task) -> float:
    """Of a task, without dropout."""
    return float(F.cross_entropy(copy.deepcopy(model).eval()(data[0]), data[1]))


LEARN = [("plain", name) for name in METHODS] + [
    (case, name) for case in CASES if case != "plain" for name in ("ong-prior", "ong", "ewc, ekfac")
]


@pytest.mark.parametrize(("case", "name"), LEARN)
def test_every_method_learns_and_on_every_net(case: str, name: str) -> None:
    what = CASES[case]
    first, second = stream(what)
    learner = Learner(METHODS[name](), built(what), batch=4, lr=0.02).learn(first, epochs=3)
    before = loss(learner.model, second)
    learner.learn(second, epochs=8)
    assert loss(learner.model, second) < before


def test_directions_and_curvature_are_taken_in_eval_mode_and_modes_come_back() -> None:
    case = CASES["dropout"]
    (data,) = stream(case, 1)
    learner = Learner(ONGPrior(directions_per_task=EXAMPLES), built(case), batch=4)
    learner.model.train()
    learner.model[1].eval()  # a layer that the user keeps in eval mode
    learner.method.begin_task(data)
    learner.train(data)
    modes = [module.training for module in learner.model.modules()]
    learner.method.end_task()
    assert modes == [module.training for module in learner.model.modules()] == [True, True, False, True, True]
    assert not any(module._forward_hooks for module in learner.model.modules())
    learner.method.begin_task(data)
    assert (stored(learner, data).T @ learner.update(stored(learner, data)[:, 0])).abs().max() < EXACT
