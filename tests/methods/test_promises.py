"""What is promised beside steps: buffers that stay, likelihoods that fit, and errors before training rather than after."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from methods.loops import EVERY, Task, net, plain, task
from nets import seeded
from torch import Tensor, nn

from ong.curvature import UnsupportedLayerError, evaluating
from ong.errors import NotFiniteError, UserError
from ong.methods import EWC, NCL, NGD, OGD, Method, ONGPrior

STAY = ("GPM", "OGD", "OGDPlus", "ONGPrior", "ONGv1")
"""Methods that promise outputs to stay, and freeze running statistics for it."""


class Residual(nn.Module):
    """A block of a residual net."""

    def __init__(self, channels: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norms = nn.ModuleList(norm(channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (self.norms[1](self.second(self.norms[0](self.first(x)).relu())) + x).relu()


def convolutional(norm: Callable[[int], nn.Module]) -> nn.Module:
    layers = [nn.Conv2d(2, 4, 3, padding=1), norm(4), nn.ReLU(), Residual(4, norm), nn.AdaptiveAvgPool2d(1)]
    return seeded(nn.Sequential(*layers, nn.Flatten(), nn.Linear(4, 3)), torch.Generator().manual_seed(0))


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "BatchNorm": nn.BatchNorm2d,
    "BatchNorm of a mean over all batches": lambda n: nn.BatchNorm2d(n, momentum=None),
    "BatchNorm without weights": lambda n: nn.BatchNorm2d(n, affine=False),
    "InstanceNorm": lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True),
}


def images(seed: int, shift: float = 0.0) -> Task:
    """Pictures of 4 × 4 pixels, of another brightness in another task."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(12, 2, 4, 4, generator=generator, dtype=torch.float64) + shift
    return [x, torch.randint(0, 3, (12,), generator=generator)]


def epochs(model: nn.Module, sgd: torch.optim.Optimizer, data: Task, count: int = 2) -> None:
    """A loop that sets modes in every epoch, as most do."""
    for _ in range(count):
        model.train()
        plain(model, sgd, data)
        model.eval()
        with torch.no_grad():
            model(data[0])


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with evaluating(model), torch.no_grad():
        return model(x)


def trained_at_rate_0(method: Method, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The first task's logits before and after a second one, of other images, that moves no weight."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with method.attach(model, sgd):
        method.begin_task(images(0))
        epochs(model, sgd, images(0))
        method.end_task()
        before = outputs(model, images(0)[0])
        sgd.param_groups[0]["lr"] = 0.0
        method.begin_task(images(1, shift=3.0))
        epochs(model, sgd, images(1, shift=3.0))
        method.end_task()
    return before, outputs(model, images(0)[0])


@pytest.mark.filterwarnings("ignore:only Linear, Conv1d and Conv2d layers")  # GPM's, about what it does not cover
@pytest.mark.parametrize("name", STAY)
@pytest.mark.parametrize("norm", NORMS)
def test_running_statistics_move_no_stored_output(name: str, norm: str) -> None:
    before, after = trained_at_rate_0(EVERY[name](), convolutional(NORMS[norm]))
    assert torch.equal(after, before)


@pytest.mark.parametrize("normed", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
def test_vectors_of_spectral_norm_move_no_stored_output(normed: Any) -> None:
    model = convolutional(nn.BatchNorm2d)
    for layer in [module for module in model.modules() if isinstance(module, nn.Conv2d)]:
        normed(layer)
    before, after = trained_at_rate_0(OGD(directions_per_task=12), model)
    assert torch.equal(after, before)
    assert all(module.training for module in model.train().modules())


def test_they_do_move_where_they_are_updated_and_it_is_said() -> None:
    with pytest.warns(UserWarning, match="running statistics of 3 layers go on moving.*batch_norm='freeze'"):
        before, after = trained_at_rate_0(
            OGD(directions_per_task=12, batch_norm="update"), convolutional(nn.BatchNorm2d)
        )
    assert (after - before).norm() > 0.1 * before.norm()  # of 3 standard deviations' shift


@pytest.mark.parametrize("name", ["EWC", "NCL", "SI", "OWM"])
def test_methods_that_promise_nothing_update_them_without_a_word(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="only Linear, Conv1d and Conv2d layers")
        before, after = trained_at_rate_0(EVERY[name](), convolutional(nn.BatchNorm2d))
    assert not torch.equal(after, before)


def test_the_first_task_updates_them() -> None:
    model, method = convolutional(nn.BatchNorm2d), OGD(directions_per_task=12)
    alone = copy.deepcopy(model)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with method.attach(model, sgd):
        method.begin_task(images(0))
        epochs(model, sgd, images(0))
    epochs(alone, torch.optim.SGD(alone.parameters(), lr=0.01), images(0))
    for (name, found), expected in zip(model.named_buffers(), alone.buffers(), strict=True):
        assert torch.equal(found, expected), name


def test_frozen_layers_normalise_by_what_they_have_also_in_train_mode() -> None:
    model, method = convolutional(nn.BatchNorm2d), OGD(directions_per_task=12)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with method.attach(model, sgd):
        method.begin_task(images(0))
        epochs(model, sgd, images(0))
        method.end_task()
        method.begin_task(images(1))
        model.train()
        with torch.no_grad():
            assert torch.equal(model(images(1)[0]), outputs(model, images(1)[0]))


@pytest.mark.parametrize("before", [True, False], ids=["begun in train mode", "begun in eval mode"])
@pytest.mark.parametrize("inside", [True, False], ids=["trains", "evaluates"])
def test_modes_are_those_that_the_loop_has_set(before: bool, inside: bool) -> None:
    model, method = convolutional(nn.BatchNorm2d), OGD(directions_per_task=12)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with method.attach(model, sgd):
        for seed in range(2):
            model.train(before)
            method.begin_task(images(seed))
            assert all(module.training is before for module in model.modules())
            model.train(inside)
            plain(model, sgd, images(seed))
            assert all(module.training is inside for module in model.modules())
            method.end_task()
            assert all(module.training is inside for module in model.modules())
    assert all(module.training is inside for module in model.modules())


def test_a_layer_that_the_loop_froze_itself_stays_in_eval_mode() -> None:
    model, method = convolutional(nn.BatchNorm2d), OGD(directions_per_task=12)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    with method.attach(model, sgd):
        for seed in range(2):
            method.begin_task(images(seed))
            model.train()
            model[1].eval()  # type: ignore[index, operator]
            plain(model, sgd, images(seed))
            method.end_task()
    assert not model[1].training  # type: ignore[index]
    assert model[3].norms[0].training  # type: ignore[index, union-attr]


class PowerIteration(nn.Module):
    """A layer in spectral normalisation's way: a buffer moves whenever it is called in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 12)
        self.register_buffer("u", torch.ones(12))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.u.copy_(F.normalize(self.inner.weight.detach() @ (self.inner.weight.detach().T @ self.u), dim=0))
        return self.inner(x) / self.u.dot(self.u).sqrt()


def test_buffers_that_move_in_a_later_task_are_named() -> None:
    model = seeded(nn.Sequential(PowerIteration(), nn.Tanh(), nn.Linear(12, 3)), torch.Generator().manual_seed(0))
    method = OGD(directions_per_task=6)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    with method.attach(model, sgd):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            method.begin_task(task(0))
            plain(model, sgd, task(0))
            method.end_task()  # nothing is to be kept in the first task
        method.begin_task(task(1))
        plain(model, sgd, task(1))
        with pytest.warns(UserWarning, match="buffers of the model changed.*'0"):
            method.end_task()


# Likelihoods.


def regression(seed: int, outputs: int = 1) -> Task:
    x = task(seed)[0]
    return [x, torch.sin(2 * x[:, :outputs]) + seed]


def binary(seed: int, outputs: int = 1) -> Task:
    x = task(seed)[0]
    return [x, (x[:, seed : seed + outputs] > 0).to(x)]


def fisher_of(likelihood: str, model: nn.Module, x: Tensor) -> Tensor:
    """diag F from the definition, by autograd an example at a time."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for row in x:
        h = model(row[None])[0]
        for c in range(len(h)):
            g = torch.cat([p.flatten() for p in torch.autograd.grad(h[c], list(model.parameters()), retain_graph=True)])
            p = torch.sigmoid(h[c].detach())
            total += g.square() * (p * (1 - p) if likelihood == "bernoulli" else 1.0)
    return total / len(x)


LIKELIHOODS = [
    ("bernoulli", nn.BCEWithLogitsLoss(), 1, binary),
    ("bernoulli", nn.BCEWithLogitsLoss(), 3, binary),
    ("bernoulli", nn.MultiLabelSoftMarginLoss(), 3, binary),
    ("gaussian", nn.MSELoss(), 1, regression),
    ("gaussian", nn.MSELoss(), 2, regression),
]
IDS = [f"{type(criterion).__name__} of {outputs}" for _, criterion, outputs, _ in LIKELIHOODS]


def regress(method: Method | None, criterion: nn.Module, outputs: int, data: Callable[[int, int], Task]) -> nn.Module:
    """A net after two tasks, with a method or none."""
    model = seeded(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, outputs)), torch.Generator().manual_seed(0))
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    if method is not None:
        method.attach(model, sgd, criterion=criterion)
    for seed in range(2):
        part = data(seed, outputs)
        if method is not None:
            method.begin_task(part)
        for _ in range(20):
            sgd.zero_grad()
            criterion(model(part[0]), part[1]).backward()
            sgd.step()
        if method is not None:
            method.end_task()
    return model


@pytest.mark.parametrize(("likelihood", "criterion", "outputs", "data"), LIKELIHOODS, ids=IDS)
def test_the_fisher_is_that_of_the_criterions_likelihood(
    likelihood: str, criterion: nn.Module, outputs: int, data: Callable[[int, int], Task]
) -> None:
    method = EWC(strength=0.0, fisher="exact", mode="online", decay=0.0)
    model = regress(method, criterion, outputs, data)
    expected = fisher_of(likelihood, model, data(1, outputs)[0])
    blocks = [(method.penalties[0].curvature[name], model.get_submodule(name)) for name in ("0", "2")]  # type: ignore[union-attr]
    found = torch.cat([torch.cat([f[:, :-1].flatten(), f[:, -1]]) for f, _ in blocks])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-14)  # float64
    assert expected.max() > 0


@pytest.mark.parametrize(("likelihood", "criterion", "outputs", "data"), LIKELIHOODS, ids=IDS)
@pytest.mark.parametrize("penalty", ["diagonal", "ekfac"])
def test_ewc_holds_weights_that_no_method_lets_go(
    likelihood: str, criterion: nn.Module, outputs: int, data: Callable[[int, int], Task], penalty: Any
) -> None:
    alone = regress(None, criterion, outputs, data)
    held = regress(EWC(strength=5.0, penalty=penalty, fisher="exact"), criterion, outputs, data)
    first = data(0, outputs)
    with torch.no_grad():
        assert criterion(held(first[0]), first[1]) < criterion(alone(first[0]), first[1])


NEEDS = {
    "EWC": lambda: EWC(fisher="exact"),
    "NCL": lambda: NCL(fisher="mc"),
    "ONGPrior": lambda: ONGPrior(fisher="rademacher"),
    "NGD": lambda: NGD(fisher="empirical"),
    "OGD of the loss": lambda: OGD(directions="loss"),
}


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.parametrize("targets", ["of one output", "numbers", "several labels"])
def test_a_likelihood_that_cannot_be_told_is_an_error_before_training(name: str, targets: str) -> None:
    width = 3 if targets == "several labels" else 1
    x, labels = task()
    y = {"of one output": labels % 2, "numbers": x[:, :1], "several labels": (x[:, :3] > 0).to(x)}[targets]
    model, method = nn.Linear(6, width).double(), NEEDS[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd):
        with pytest.raises(UserError, match="likelihood.*criterion=.*or"):
            method.begin_task([x, y])
        with pytest.raises(UserError, match="outside of a task"):
            sgd.step()


@pytest.mark.parametrize("name", NEEDS)
def test_a_criterion_that_tells_none_is_an_error_before_training(name: str) -> None:
    model, method = nn.Linear(6, 1).double(), NEEDS[name]()
    with (
        method.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), criterion=nn.L1Loss()),
        pytest.raises(UserError, match="L1Loss does not say which likelihood"),
    ):
        method.begin_task(regression(0))


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("EWC", "EWC, ekfac")])
def test_the_logit_fisher_needs_no_likelihood(name: str) -> None:
    """One number as target: no class, and nothing to ask for."""
    regress(EVERY[name](), nn.MSELoss(), 1, regression)


def test_regressions_of_several_outputs_want_directions_that_need_no_class() -> None:
    with pytest.raises(UserError, match="directions='gtl'.*use directions='all' or 'ave'"):
        regress(OGD(), nn.MSELoss(), 2, regression)
    regress(OGD(directions="all"), nn.MSELoss(), 2, regression)


# What is not finite.


def diverged(name: str, what: str) -> None:
    model, method = net(), EVERY[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.01)
    data = task(0, examples=40)
    if what == "an input":  # among those that are drawn, not among the first that are looked at
        looked_at = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:8]
        others = torch.ones(40, dtype=torch.bool)
        others[looked_at] = False
        data[0][others] = torch.nan
    with method.attach(model, sgd):
        if what == "a weight, at once":
            model[2].weight.data[0, 0] = torch.nan
        method.begin_task(data)
        plain(model, sgd, task(0))
        if what == "a weight":
            model[2].weight.data[0, 0] = torch.inf
        method.end_task()


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("when", ["a weight, at once", "a weight"])
def test_weights_that_diverged_are_an_error_with_their_name(name: str, when: str) -> None:
    with pytest.raises(NotFiniteError, match="'2.weight'"):
        diverged(name, when)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "SI"])  # which looks at no example
def test_gradients_and_inputs_that_are_not_finite_are_an_error_with_the_layers_name(name: str) -> None:
    with pytest.raises(NotFiniteError, match="'0'"):
        diverged(name, "an input")


# Models and seeds.


class Centred(nn.Module):
    """Subtracts the batch's mean, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x - x.mean(0))


MIXING: dict[str, Callable[[], nn.Module]] = {
    "BatchNorm without statistics": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, track_running_stats=False), nn.Linear(8, 3)
    ),
    "BatchNorm without statistics or weights": lambda: nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8, affine=False, track_running_stats=False), nn.Linear(8, 3)
    ),
    "a mean over the batch": Centred,
    "attention over the batch": lambda: nn.Sequential(nn.TransformerEncoderLayer(6, 2, 8), nn.Linear(6, 3)),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("mixing", MIXING)
def test_models_that_mix_a_batch_are_refused_before_training(name: str, mixing: str) -> None:
    model, method = MIXING[mixing]().double(), EVERY[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd):
        with pytest.raises(UnsupportedLayerError, match="other outputs when other examples share its batch"):
            method.begin_task(task())
        with pytest.raises(UserError, match="outside of a task"):
            sgd.step()


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, int])
def test_seeds_of_any_integer_type_are_alike(kind: Any) -> None:
    kept = []
    for seed in (3, kind(3)):
        model, method = net(), OGD(directions_per_task=4, seed=seed)
        with method.attach(model, torch.optim.SGD(model.parameters(), lr=0.1)):
            method.begin_task(task())
            method.end_task()
        kept.append(method.memory.gram())
    assert torch.equal(kept[0], kept[1])
