"""What is promised of old outputs, and measured, in plain loops."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import jacobian, mlp
from torch import Tensor, nn

from ong.errors import UserError
from ong.methods import NCL, OGD, Certificate, Method, ONGPrior, ONGReplay, ONGv1
from ong.methods.certificate import CERTIFIED

pytestmark = pytest.mark.filterwarnings("ignore:.*of the space is left")
Task = list[Tensor]
Found = dict[str, float | None]


def task(seed: int, examples: int = 40, width: int = 6, classes: int = 3) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, width, generator=generator).double()
    return [x, torch.randint(0, classes, (examples,), generator=generator)]


class Run:
    """Three tasks in a plain loop.

    Attributes:
        found: the numbers of each task.
        ends: the net's weights before the first task and after each.
    """

    def __init__(
        self, model: nn.Module, method: Method | None, certificate: Certificate, rate: float = 0.1, classes: int = 3
    ) -> None:
        self.model, self.certificate = model, certificate
        self.tasks = [task(t, classes=classes) for t in range(3)]
        self.tests = [task(10 + t, classes=classes) for t in range(3)]
        sgd = torch.optim.SGD(model.parameters(), lr=rate)
        if method is not None:
            method.attach(model, sgd)
        self.found: list[Found] = []
        self.ends = [self.weights()]
        self.certificates: list[Any] = []
        for data, test in zip(self.tasks, self.tests, strict=True):
            if method is not None:
                method.begin_task(data)
            certificate.begin_task(model)
            for _ in range(10):
                sgd.zero_grad()
                nn.functional.cross_entropy(model(data[0]), data[1]).backward()
                sgd.step()
            self.found.append(certificate.end_task(model, data, method=method, test=test))
            self.certificates.append(certificate.state_dict())
            if method is not None:
                method.end_task()
            self.ends.append(self.weights())

    def weights(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def at(self, end: int, x: Tensor) -> Tensor:
        self.model.load_state_dict(self.ends[end])
        with torch.no_grad():
            outputs: Tensor = self.model(x)
        return outputs


def number(found: Found, name: str) -> float:
    value = found[name]
    assert value is not None
    return value


LINEAR = {"ong-prior": lambda: ONGPrior(directions_per_task=4), "ncl": lambda: NCL(), "ogd": lambda: OGD(directions_per_task=4), "naive": lambda: None}  # fmt: skip


@pytest.mark.parametrize("name", LINEAR)
def test_on_a_linear_model_the_first_order_is_the_whole_change(name: str) -> None:
    run = Run(nn.Linear(6, 3).double(), LINEAR[name](), Certificate(examples=20))
    for found in run.found[1:]:
        measured = number(found, "measured")
        assert measured > 1e-4
        assert number(found, "exact") == pytest.approx(measured, rel=1e-10)
        assert number(found, "first_order") == pytest.approx(measured, rel=1e-10)
        assert number(found, "nonlinear") < 1e-20
        assert number(found, "stored") < 1e-20


def test_on_a_linear_model_of_one_output_the_promise_is_the_change_of_the_examples_f_was_taken_from() -> None:
    """Then the EKFAC is F; both look at all examples."""
    model, method, certificate = nn.Linear(6, 1).double(), NCL(damping=0.3, rank=None), Certificate(examples=40)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for seed in range(2):
        x, y = task(seed)
        data = [x, y.double()[:, None]]
        method.attach(model, sgd, criterion=nn.MSELoss())
        method.begin_task(data)
        certificate.begin_task(model)
        before = model(x).detach()
        for _ in range(5):
            sgd.zero_grad()
            nn.functional.mse_loss(model(x), data[1]).backward()
            sgd.step()
        found = certificate.end_task(model, data, method=method)
        method.end_task()
    assert (model(x) - before).abs().max() > 1e-2
    assert number(found, "promised") == pytest.approx(number(found, "measured"), rel=1e-10)


def test_measured_changes_are_those_of_the_examples_named() -> None:
    """The stored are the first of a permutation, the others its last; test examples are drawn alike."""
    run = Run(mlp(6, 8, 3), ONGPrior(directions_per_task=12), Certificate(examples=12))
    choice, test_choice = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    orders = [torch.randperm(40, generator=choice) for _ in range(3)]
    tests = [torch.randperm(40, generator=test_choice) for _ in range(3)]
    for t, found in enumerate(run.found[1:], start=1):
        sums = dict.fromkeys(("measured", "measured_test", "distance_measured", "stored_measured"), 0.0)
        for s in range(t):
            (x, y), (u, v), count = run.tasks[s], run.tests[s], 12 // t
            first, last, unseen = orders[s][:count], orders[s][-12:][:count], tests[s][:count]
            others = run.at(t + 1, x[last]) - run.at(t, x[last])
            change = run.at(t + 1, u[unseen]) - run.at(t, u[unseen])
            since = run.at(t + 1, x[first]) - run.at(s + 1, x[first])
            sums["measured"] += float(others.square().sum(1).mean()) / t
            sums["measured_test"] += float(change.square().sum(1).mean()) / t
            few = range(-(-count // 4))
            sums["distance_measured"] += float(change[few, v[unseen][few]].square().mean()) / t
            sums["stored_measured"] += float(since[range(count), y[first]].square().mean()) / t
        assert {name: number(found, name) for name in sums} == pytest.approx(sums, rel=1e-9)


def test_exact_and_first_order_are_those_of_the_jacobians() -> None:
    run = Run(mlp(6, 8, 3), ONGPrior(directions_per_task=12), Certificate(examples=12))
    last = torch.randperm(40, generator=torch.Generator().manual_seed(0))[-12:]
    x = run.tasks[0][0][last]
    layers = [{n: w[n] for n in run.ends[0]} for w in run.ends]
    moved = torch.cat(
        [
            torch.cat([layers[2][f"{k}.weight"] - layers[1][f"{k}.weight"], (layers[2][f"{k}.bias"] - layers[1][f"{k}.bias"])[:, None]], 1).flatten()
            for k in (0, 2)
        ]
    )  # fmt: skip
    run.model.load_state_dict(run.ends[1])
    change = jacobian(run.model, x) @ moved
    assert number(run.found[1], "exact") == pytest.approx(float(change.square().sum(1).mean()), rel=1e-9)
    assert run.found[1]["exact"] == run.found[1]["first_order"]  # there is one past task, where this one began


KEEPING: dict[str, Callable[[], Method]] = {
    "ogd": lambda: OGD(directions_per_task=20),
    "ong-v1": lambda: ONGv1(directions_per_task=20),
    "ong-prior": lambda: ONGPrior(directions_per_task=20, examples_per_task=40, samples=50),
}


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("rate", [0.003, 0.3])
def test_methods_keep_what_they_promise_of_stored_and_of_single_outputs(name: str, rate: float) -> None:
    for found in Run(mlp(6, 8, 3), KEEPING[name](), Certificate(examples=20), rate=rate).found[1:]:
        assert 0 < number(found, "stored_measured") <= number(found, "stored")
        assert 0 < number(found, "distance_measured") <= number(found, "distance")
        beyond = number(found, "nonlinear") ** 0.5
        assert number(found, "measured") ** 0.5 <= (number(found, "exact") ** 0.5 + beyond) * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_where_steps_are_small_a_metric_keeps_its_promise_but_for_the_error_of_its_ekfac(seed: int) -> None:
    method = NCL(damping=0.3, pull=0, examples_per_task=40, samples=50, seed=seed)
    found = Run(mlp(6, 8, 3, seed=seed), method, Certificate(examples=40), rate=0.003).found[1]
    assert number(found, "nonlinear") < 1e-3 * number(found, "measured")
    assert number(found, "exact") == pytest.approx(number(found, "measured"), rel=0.05)
    error = abs(number(found, "exact") - number(found, "promised"))
    assert error < 0.5 * number(found, "measured") <= number(found, "promised")
    plain = Run(mlp(6, 8, 3, seed=seed), None, Certificate(examples=40), rate=0.003).found[1]
    assert number(plain, "measured") > 10 * number(found, "promised")  # SGD's Δ, which no metric shortens


def test_without_a_method_stored_outputs_move_further_than_the_bound() -> None:
    for found in Run(mlp(6, 8, 3), None, Certificate(examples=20), rate=0.05).found[1:]:
        assert number(found, "stored_measured") > 2 * number(found, "stored")


def test_what_does_not_apply_is_none() -> None:
    own = {"promised", "divergence", "divergence_measured", "distance"}
    assert all(value is None for value in Run(mlp(6, 8, 3), None, Certificate()).found[0].values())
    for method, has in (
        (None, set()),
        (OGD(directions_per_task=4), {"distance"}),
        (ONGPrior(directions_per_task=4), {"promised", "distance"}),
        (NCL(), {"promised", "distance"}),
        (NCL(fisher="rademacher"), {"divergence", "divergence_measured", "distance"}),
        (NCL(fisher="empirical"), {"distance"}),
    ):
        run = Run(mlp(6, 8, 3), method, Certificate(examples=8))
        assert set(run.found[2]) == set(CERTIFIED)
        assert {name for name in own if run.found[2][name] is not None} == has


def test_a_divergence_is_the_second_order_of_the_kl_of_outputs() -> None:
    method = NCL(fisher="exact", damping=0.1, prior_precision=0, rank=None)
    run = Run(mlp(6, 8, 3), method, Certificate(examples=40), rate=0.003)
    promised, measured = number(run.found[1], "divergence"), number(run.found[1], "divergence_measured")
    before, after = (run.at(end, run.tasks[0][0]).log_softmax(1) for end in (1, 2))
    twice = 2 * (before.exp() * (before - after)).sum(1).mean()
    assert measured == pytest.approx(float(twice), rel=1e-9)
    assert promised == pytest.approx(measured, rel=0.5)  # the EKFAC's error


def test_a_resumed_certificate_goes_on_to_the_bit() -> None:
    whole = Run(mlp(6, 8, 3), None, Certificate(examples=12))
    buffer = io.BytesIO()
    torch.save(whole.certificates[1], buffer)
    buffer.seek(0)
    resumed = Certificate(examples=12)
    resumed.load_state_dict(torch.load(buffer, weights_only=True))
    whole.model.load_state_dict(whole.ends[2])
    resumed.begin_task(whole.model)
    whole.model.load_state_dict(whole.ends[3])
    assert resumed.end_task(whole.model, whole.tasks[2], test=whole.tests[2]) == whole.found[2]


class Growing(nn.Module):
    """A head that gains outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 5).double(), nn.Linear(5, 2).double()

    def grow(self) -> None:
        old, self.head = self.head, nn.Linear(5, self.head.out_features + 1).double()
        with torch.no_grad():
            self.head.weight[:-1], self.head.bias[:-1] = old.weight, old.bias

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.body(x).tanh())
        return outputs


def test_a_head_that_grows_counts_as_having_been_there() -> None:
    model, certificate = Growing(), Certificate(examples=40)
    first, second = task(0, classes=2), task(1, classes=3)
    certificate.begin_task(model)
    certificate.end_task(model, first)
    model.grow()
    before = model(first[0]).detach()
    certificate.begin_task(model)
    with torch.no_grad():
        model.head.weight += 0.01
    found = certificate.end_task(model, second)
    expected = (model(first[0]).detach() - before).square().sum(1).mean()
    assert number(found, "measured") == pytest.approx(float(expected), rel=1e-9)
    assert number(found, "exact") == pytest.approx(float(expected), rel=1e-9)  # linear in the head


def test_looking_changes_neither_weights_nor_modes_nor_generators() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).double().train()
    certificate, state = Certificate(), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for seed in range(2):
        certificate.begin_task(model)
        certificate.end_task(model, task(seed))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class Unforwarded(torch.autograd.Function):
    """An operation of one's own without a forward-mode derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = Unforwarded.apply(self.inner(x))
        return outputs


def test_a_model_without_forward_derivatives_has_no_first_order() -> None:
    found = Run(Wrapped(), None, Certificate()).found[1]
    assert found["exact"] is found["first_order"] is found["nonlinear"] is None
    assert number(found, "measured") > 0


def test_mistakes_are_told() -> None:
    with pytest.raises(UserError, match="examples must be at least 1"):
        Certificate(examples=0)
    certificate, model = Certificate(), nn.Linear(6, 3).double()
    with pytest.raises(UserError, match="call Certificate.begin_task"):
        certificate.end_task(model, task(0))
    certificate.begin_task(model)
    certificate.end_task(model, [task(0)[0], task(0)[0][:, :3]])
    certificate.begin_task(model)
    with pytest.raises(UserError, match="no class numbers"):
        certificate.end_task(model, task(1))


@pytest.mark.parametrize(
    "method",
    [
        lambda: ONGPrior(damping=0.5, directions_per_task=5, examples_per_task=40, samples=50),
        lambda: ONGReplay(damping=0.5, examples=120, replay_batch=40, samples=50),
    ],
    ids=["ong-prior", "ong-replay"],
)
def test_what_is_promised_is_what_a_linear_model_does(method: Callable[[], Method]) -> None:
    """A linear layer's J does not change, so that the metric knows old outputs but for its own sampling.

    Both count F as a sum over tasks: with a mean the promise would be half of what is measured after the third task.
    """
    run = Run(nn.Linear(6, 3).double(), method(), Certificate(examples=40))
    for found in run.found[1:]:
        assert found["promised"] == pytest.approx(found["measured"], rel=0.25)  # the EKFAC's error, .11 at most
