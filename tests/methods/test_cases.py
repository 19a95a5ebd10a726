"""Inputs that an earlier version answered wrongly, and their kind."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils import DataAttribute, make_avalanche_dataset
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from methods.loops import Task, flat, values, weights
from nets import mlp, seeded
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import TensorDataset
from torchvision.models import VisionTransformer
from torchvision.models.convnext import LayerNorm2d

import ong
from ong.errors import UserError
from ong.methods import EWC, FOPNG, NCL, OGD, Method, ONGPrior
from ong.streams import TaskData, benchmark_from_tensors

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:(OGD|ONGPrior).*independent directions")

EXAMPLES = 24


def examples(seed: int, count: int = EXAMPLES, classes: int = 3) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return [x, torch.randint(0, classes, (count,), generator=generator)]


def stream(*parts: Task) -> Any:
    return benchmark_from_tensors([TaskData((x, y), (x, y)) for x, y in parts]).train_stream


def naive(model: nn.Module, *plugins: Any, optimizer: Any = None, criterion: Any = None, batch: int = 6,
          kind: type[Naive] = Naive, **options: Any) -> Naive:  # fmt: skip
    return kind(
        model=model,
        optimizer=optimizer or torch.optim.SGD(model.parameters(), 0.05),
        criterion=criterion or nn.CrossEntropyLoss(),
        train_mb_size=batch,
        plugins=list(plugins),
        evaluator=EvaluationPlugin(),
        **options,
    )


def train(strategy: Naive, *experiences: Any) -> None:
    for experience in experiences:
        torch.manual_seed(0)  # Avalanche's order of examples
        strategy.train(experience, eval_streams=[])


# In Avalanche.


@pytest.mark.parametrize("first_rate", [0.05, 0.005])
def test_a_rate_for_each_group_of_parameters_keeps_old_outputs(first_rate: float) -> None:
    model, plugin = mlp(6, 8, 3), ong.OGD(directions_per_task=EXAMPLES)
    groups = [{"params": model[0].parameters(), "lr": first_rate}, {"params": model[2].parameters(), "lr": 0.05}]
    strategy = naive(model, plugin, optimizer=torch.optim.SGD(groups), batch=EXAMPLES)
    first, second = stream(examples(0), examples(1))
    train(strategy, first)
    memory = copy.deepcopy(plugin.method.memory)
    before = {name: torch.cat([model[int(name)].weight, model[int(name)].bias[:, None]], 1).detach() for name in "02"}
    train(strategy, second)
    moved = {
        name: part - torch.cat([model[int(name)].weight, model[int(name)].bias[:, None]], 1).detach()
        for name, part in before.items()
    }
    assert memory.dot(moved).norm() < 1e-9 * flat(moved).norm()  # float64; 0.41 and 1e-5 before


@pytest.mark.parametrize("plugin", [ong.OGD, ong.ONGPrior, ong.ONGv1])
def test_batch_norm_in_avalanche_moves_no_old_output_at_rate_0(plugin: Any) -> None:
    layers = [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)]
    model = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0))
    strategy = naive(model, plugin(directions_per_task=12))
    a, b = examples(0), examples(1)
    first, second = stream(a, [b[0] + 3, b[1]])
    train(strategy, first)
    model.eval()
    before = model(a[0]).detach()
    strategy.optimizer.param_groups[0]["lr"] = 0.0
    train(strategy, second)
    model.eval()
    assert torch.equal(model(a[0]), before)


def targets_stream(*parts: Task) -> Any:
    """Of targets that are no class numbers."""
    sets = []
    for x, y in parts:
        attributes = [
            DataAttribute([0] * len(x), "targets_task_labels", use_in_getitem=True),
            DataAttribute([0] * len(x), "targets"),
        ]
        sets.append(make_avalanche_dataset(TensorDataset(x, y), data_attributes=attributes))
    return benchmark_from_datasets(train=sets).train_stream


@pytest.mark.parametrize(("criterion", "binary"), [(nn.BCEWithLogitsLoss(), True), (nn.MSELoss(), False)])
@pytest.mark.parametrize("penalty", ["diagonal", "ekfac"])
@pytest.mark.parametrize("fisher", ["logit", "exact", "mc"])
def test_ewc_of_one_output_is_not_naive(criterion: nn.Module, binary: bool, penalty: str, fisher: str) -> None:
    x = [examples(k)[0] for k in range(2)]
    parts = [[a, (a[:, k : k + 1] > 0).to(a) if binary else a[:, k : k + 1]] for k, a in enumerate(x)]

    def moved(*plugins: Any) -> Tensor:
        model = mlp(6, 8, 1)
        strategy = naive(model, *plugins, criterion=criterion, train_epochs=5)
        first, second = targets_stream(*parts)
        train(strategy, first)
        before = weights(model)
        train(strategy, second)
        return (weights(model) - before).norm()

    assert moved(ong.EWC(strength=5.0, penalty=penalty, fisher=fisher)) < 0.9 * moved()


def test_the_plugin_may_be_told_the_likelihood() -> None:
    class Own(nn.Module):
        def forward(self, h: Tensor, y: Tensor) -> Tensor:
            return (h - y).abs().mean()

    parts = [[x := examples(0)[0], x[:, :1]]]
    with pytest.raises(UserError, match="Own does not say which likelihood"):
        train(naive(mlp(6, 8, 1), ong.EWC(fisher="exact"), criterion=Own()), *targets_stream(*parts))
    train(naive(mlp(6, 8, 1), ong.EWC(fisher="exact", likelihood="gaussian"), criterion=Own()), *targets_stream(*parts))


def test_tasks_alike_in_some_labels_are_two() -> None:
    x = examples(0)[0]
    y, z = torch.zeros(2, EXAMPLES, dtype=torch.long).unbind()
    y[1:12], z[13:23] = 1, 1  # equal in the first, middle and last example
    plugin, model = ong.OGD(directions_per_task=EXAMPLES), mlp(6, 8, 2)
    strategy = naive(model, plugin)
    for labels in (y, z, z):  # the third is the second's twin: whoever trains says what is a task
        train(strategy, stream([x, labels])[0])
    assert (plugin.method.tasks, len(plugin.method.memory)) == (3, 3 * EXAMPLES)


def test_an_experience_trained_on_again_is_no_new_task() -> None:
    plugin, model = ong.OGD(directions_per_task=EXAMPLES), mlp(6, 8, 3)
    experiences = stream(examples(0), examples(1))
    train(naive(model, plugin), experiences[0], experiences[1], experiences[0])
    assert (plugin.method.tasks, len(plugin.method.memory)) == (2, 2 * EXAMPLES)


class Accumulating(Naive):
    """Two batches a step."""

    def training_epoch(self, **kwargs: Any) -> None:
        for i, self.mbatch in enumerate(self.dataloader):  # noqa: B020
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            if i % 2 == 0:
                self.optimizer.zero_grad()
            self.loss = self._make_empty_loss()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss += self.criterion() / 2
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
            self._before_update(**kwargs)
            if i % 2:
                self.optimizer_step()
            self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


class Scaling(Naive):
    """Scales the loss as mixed precision does."""

    def backward(self) -> None:
        (65536.0 * self.loss).backward()

    def optimizer_step(self) -> None:
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad /= 65536.0
        self.optimizer.step()


PLUGINS: dict[str, Callable[[], Any]] = {
    "EWC": lambda: ong.EWC(strength=3.0),
    "FOPNG": lambda: ong.FOPNG(directions_per_task=EXAMPLES),
    "GPM": ong.GPM,
    "NCL": lambda: ong.NCL(damping=0.3),
    "NGD": ong.NGD,
    "OGD": lambda: ong.OGD(directions_per_task=EXAMPLES),
    "OGDPlus": lambda: ong.OGDPlus(directions_per_task=EXAMPLES),
    "ONG": lambda: ong.ONG(directions_per_task=EXAMPLES),
    "ONGPrior": lambda: ong.ONGPrior(pull=1.0, directions_per_task=EXAMPLES),
    "ONGv1": lambda: ong.ONGv1(directions_per_task=EXAMPLES),
    "OWM": ong.OWM,
    "SGP": ong.SGP,
    "SI": ong.SI,
}


@pytest.mark.parametrize("name", PLUGINS)
@pytest.mark.parametrize(("kind", "batch"), [(Accumulating, 12), (Scaling, 24)])
def test_strategies_that_accumulate_or_scale_make_naives_steps(name: str, kind: type[Naive], batch: int) -> None:
    """Of the second task; the first is trained by Naive."""
    ended = []
    for strategy_kind, size in ((Naive, 24), (kind, batch)):
        model, plugin = mlp(6, 8, 3), PLUGINS[name]()
        first, second = stream(examples(0), examples(1))
        train(naive(model, plugin), first)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.filterwarnings("ignore", message="No loggers|OGD.*|ONG.*|FOPNG.*")
            train(naive(model, plugin, batch=size, kind=strategy_kind, train_epochs=4), second)
        ended.append(weights(model))
    torch.testing.assert_close(ended[1], ended[0], rtol=0, atol=1e-9)  # float64, sums in another order


# Targets.


LABELS: dict[str, Callable[[Tensor], Tensor]] = {
    "uint8": lambda y: y.to(torch.uint8),
    "int32": lambda y: y.int(),
    "int16": lambda y: y.short(),
    "a column": lambda y: y[:, None],
    "a column of int32": lambda y: y[:, None].int(),
}
WITH_LABELS: dict[str, Callable[[], Method]] = {
    "OGD": lambda: OGD(directions_per_task=12),
    "OGD of the loss": lambda: OGD(directions="loss", directions_per_task=12),
    "EWC, empirical": lambda: EWC(fisher="empirical"),
    "NCL, mc": lambda: NCL(fisher="mc"),
    "ONGPrior": lambda: ONGPrior(directions_per_task=12, fisher="empirical"),
    "FOPNG": lambda: FOPNG(directions_per_task=12),
}


def loss_of_any(logits: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, y.long().reshape(-1))


def after_two_tasks(
    method: Method,
    model: nn.Module,
    data: list[Any],
    loss: Callable[[Any, Any], Tensor] = loss_of_any,
    **options: Any,
) -> Tensor:
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    with method.attach(model, sgd, **options):
        for part in data:
            method.begin_task(part)
            for _ in range(3):
                sgd.zero_grad()
                loss(model(part[0]), part[1]).backward()
                sgd.step()
            method.end_task()
    return weights(model)


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize("labels", LABELS)
def test_labels_of_any_integer_type_and_shape_are_alike(name: str, labels: str) -> None:
    data = [examples(0), examples(1)]
    usual = after_two_tasks(WITH_LABELS[name](), mlp(6, 8, 3), data)
    other = after_two_tasks(WITH_LABELS[name](), mlp(6, 8, 3), [[x, LABELS[labels](y)] for x, y in data])
    assert torch.equal(other, usual)


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize("known", [12, 3], ids=["half", "few"])
def test_examples_without_a_label_are_left_out(name: str, known: int) -> None:
    """Those of ignore_index: a task of them and others leaves what the others alone leave."""
    x, y = examples(0, count=100)
    hidden = torch.randperm(100, generator=torch.Generator().manual_seed(5))[known:]
    y[hidden] = -100
    model, method = mlp(6, 8, 3), WITH_LABELS[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    with method.attach(model, sgd):
        method.begin_task([x, y])
        sgd.zero_grad()
        loss_of_any(model(x), y).backward()
        sgd.step()
        method.end_task()
    if hasattr(method, "memory"):
        assert 0 < len(method.memory) <= known
        assert method.memory.gram().diagonal().min() > 0


def test_a_task_without_any_label_is_an_error_before_training() -> None:
    x, y = examples(0)
    model = mlp(6, 8, 3)
    with (
        OGD().attach(model, torch.optim.SGD(model.parameters(), lr=0.1)) as method,
        pytest.raises(UserError, match="has a label"),
    ):
        method.begin_task([x, torch.full_like(y, -100)])


def test_labels_beyond_the_outputs_are_an_error_before_training() -> None:
    x, y = examples(0)
    model = mlp(6, 8, 3)
    with (
        OGD().attach(model, torch.optim.SGD(model.parameters(), lr=0.1)) as method,
        pytest.raises(UserError, match="a label is 3, and the model has 3 outputs"),
    ):
        method.begin_task([x, y + 3 - y])


# Outputs and inputs.


class Several(nn.Module):
    """Returns its hidden layer beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x).tanh()
        return self.head(h), h


class Pixels(nn.Module):
    """One distribution a pixel, ``[N, 3, 2, 2]``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(1, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(torch.nn.functional.pad(x.reshape(len(x), 1, 2, 3), (0, 0, 0, 1)))


class Squeezed(nn.Module):
    """One number an example, ``[N]``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).squeeze(1)


class Named(nn.Module):
    """Inputs by name, as transformers take them."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 8), nn.Linear(3, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.head((self.left(first) * self.right(second)).tanh())


OUTPUTS = [
    (Several, "a tuple", lambda m: lambda batch: m(batch[0])[0]),
    (Pixels, r"outputs of shape \[8, 3, 2, 2\] for 8 examples", lambda m: lambda batch: m(batch[0]).mean((2, 3))),
]


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize(("kind", "said", "logits"), OUTPUTS, ids=["tuple", "pixels"])
def test_other_outputs_than_logits_are_an_error_that_names_logits(
    name: str, kind: type[nn.Module], said: str, logits: Any
) -> None:
    model = seeded(kind(), torch.Generator().manual_seed(0))
    method = WITH_LABELS[name]()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    with method.attach(model, sgd), pytest.raises(UserError, match=f"the model returns {said}.*pass logits="):
        method.begin_task(examples(0))

    def loss(outputs: Any, y: Tensor) -> Tensor:
        return loss_of_any(outputs[0] if isinstance(outputs, tuple) else outputs.mean((2, 3)), y)

    before = weights(model)
    after = after_two_tasks(method, model, [examples(0), examples(1)], loss, logits=logits(model))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("make", [lambda: EWC(fisher="exact"), lambda: OGD(directions="all"), lambda: ONGPrior()])
def test_one_number_an_example_is_one_output(make: Callable[[], Method]) -> None:
    """``[N]`` and ``[N, 1]`` are trained alike."""
    ended = []
    for kind in (Squeezed(), None):
        inner = kind or nn.Linear(6, 1)
        model = seeded(inner, torch.Generator().manual_seed(0))
        data = [[x := examples(k)[0], x[:, k] if kind else x[:, k : k + 1]] for k in range(2)]
        ended.append(after_two_tasks(make(), model, data, nn.functional.mse_loss, criterion=nn.MSELoss()))
    torch.testing.assert_close(ended[0], ended[1], rtol=0, atol=1e-12)  # float64


@pytest.mark.parametrize("name", WITH_LABELS)
def test_inputs_by_name_are_those_by_place(name: str) -> None:
    ended = []
    for named in (True, False):
        model, method = seeded(Named(), torch.Generator().manual_seed(0)), WITH_LABELS[name]()
        sgd = torch.optim.SGD(model.parameters(), lr=0.05)
        options = {} if named else {"logits": lambda batch, m=model: m(batch[0][:, :3], batch[0][:, 3:])}
        with method.attach(model, sgd, **options):  # type: ignore[arg-type]
            for seed in range(2):
                x, y = examples(seed)
                batch = {"first": x[:, :3], "second": x[:, 3:], "labels": y}
                method.begin_task([batch] if named else [x, y])
                for _ in range(3):
                    sgd.zero_grad()
                    loss_of_any(model(x[:, :3], x[:, 3:]), y).backward()
                    sgd.step()
                method.end_task()
        ended.append(weights(model))
    assert torch.equal(ended[0], ended[1])


def test_natural_gradient_refuses_an_lstm_with_advice_that_exists() -> None:
    from ong.natural.online import NaturalGradient

    model = nn.ModuleDict({"l": nn.LSTM(3, 3), "o": nn.Linear(3, 3)})
    with pytest.raises(UserError) as error:
        NaturalGradient(model)
    assert "unsupported" not in str(error.value)  # there is no such option any more


# Models.


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.h, self.d = nn.Linear(6, 8, bias=False), nn.Linear(8, 3), nn.Linear(6, 8)
        self.d.weight = self.e.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.h(torch.tanh(self.e(x)) + self.d(x))


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(3, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.tanh(self.a(x.view(len(x), 2, 3).transpose(0, 1))).mean(0))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.l, self.o = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.l(x.view(len(x), 2, 3))[0][:, -1])


class Experts(nn.Module):
    """Each example is sent to one of two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.experts, self.o = nn.ModuleList(nn.Linear(6, 8) for _ in range(2)), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 8)
        for k, expert in enumerate(self.experts):
            chosen = (x[:, 0] > 0) == bool(k)
            h = h.index_put((chosen,), expert(x[chosen]))
        return self.o(h.tanh())


class Positions(nn.Module):
    """Token and position embeddings, the latter broadcast from ``[1, T]`` or ``[T]``."""

    def __init__(self, batched: bool, sparse: bool = False) -> None:
        super().__init__()
        self.t, self.p, self.h = nn.Embedding(30, 8, sparse=sparse), nn.Embedding(6, 8), nn.Linear(8, 3)
        self.batched = batched

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1])
        return self.h(torch.tanh(self.t(x) + self.p(places[None] if self.batched else places)).mean(1))


class Own(nn.Module):
    """A parameter of the module's own, and weights that other code reads."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.a, self.o = nn.Parameter(torch.ones(8)), nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.linear(x, self.a.weight) * self.scale
        return self.o(h.tanh())


def vit() -> nn.Module:
    return VisionTransformer(
        image_size=4, patch_size=2, num_layers=1, num_heads=2, hidden_dim=4, mlp_dim=8, num_classes=3
    )


def numbers(seed: int) -> Task:
    return examples(seed, count=12)


def words(seed: int, length: int = 6) -> Task:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 30, (12, length), generator=generator), numbers(seed)[1]]


def pictures(seed: int, size: int = 4) -> Task:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(12, 3, size, size, generator=generator, dtype=torch.float64), numbers(seed)[1]]


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Task]]] = {
    "tied weights": (Tied, numbers),
    "time first": (TimeFirst, numbers),
    "LSTM": (Recurrent, numbers),
    "experts": (Experts, numbers),
    "parameters of its own": (Own, numbers),
    "weight_norm": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), nn.Tanh(), nn.Linear(8, 3)),
        numbers,
    ),
    "shared layer": (
        lambda: (lambda e: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), e, nn.Tanh(), e, nn.Linear(8, 3)))(
            nn.Linear(8, 8)
        ),
        numbers,
    ),
    "positions [1, T]": (lambda: Positions(True), words),
    "positions [T]": (lambda: Positions(False), words),
    "positions [T], T the number of examples": (lambda: Positions(False), lambda seed: [p[:6] for p in words(seed)]),
    "sparse embedding": (lambda: Positions(True, sparse=True), words),
    "LayerNorm2d": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 2), LayerNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)),
        pictures,
    ),
    "depthwise convolution": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.Tanh(), nn.Conv2d(6, 6, 3, groups=6), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)
        ),
        pictures,
    ),
    "vision transformer": (vit, pictures),
    "attention": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (2, 3)),
            nn.TransformerEncoderLayer(3, 1, 6, batch_first=True),
            nn.Flatten(),
            nn.Linear(6, 3),
        ),
        numbers,
    ),
}


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("make", [OGD, ONGPrior], ids=["OGD", "ONGPrior"])
@pytest.mark.parametrize("name", MODELS)
def test_any_model_keeps_stored_outputs_at_second_order(name: str, make: Any) -> None:
    build, data = MODELS[name]
    torch.manual_seed(0)
    model = build()
    seeded(model, torch.Generator().manual_seed(0))
    model.eval()  # dropout would draw
    method = make(directions_per_task=6)
    (x, y), (later, labels) = data(0), data(1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    with method.attach(model, sgd):
        method.begin_task([x[:6], y[:6]])
        nn.functional.cross_entropy(model(x[:6]), y[:6]).backward()
        sgd.step()
        method.end_task()
    start, state = copy.deepcopy(model.state_dict()), copy.deepcopy(method.state_dict())
    stored = model(x[:6]).detach()
    moves = []
    for rate in (1e-2, 1e-3):
        model.load_state_dict(start)
        method.load_state_dict(state)
        sgd = torch.optim.SGD(model.parameters(), lr=rate)
        with method.attach(model, sgd):
            method.begin_task([later, labels])
            before = values(method.blocks)
            assert sum(part.numel() for part in before.values()) == sum(p.numel() for p in model.parameters())
            for _ in range(3):
                sgd.zero_grad()
                nn.functional.cross_entropy(model(later), labels).backward()
                sgd.step()
            moved = flat({key: part - method.blocks[key].values() for key, part in before.items()})
        assert moved.norm() > 1e-3 * rate
        moves.append((model(x[:6]).detach() - stored).gather(1, y[:6, None]).norm())
    # A hundredth at a tenth of the rate, but for third orders.
    assert float(moves[1] / moves[0]) == pytest.approx(0.01, rel=0.25)


# Size.


class Largest(TorchDispatchMode):
    """Notes the most bytes that one tensor takes."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for part in result if isinstance(result, list | tuple) else [result]:
            if isinstance(part, Tensor) and part.layout == torch.strided:
                self.bytes = max(self.bytes, part.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize(
    "make",
    [
        lambda: OGD(directions_per_task=8),
        lambda: ONGPrior(directions_per_task=8, examples_per_task=16),
        lambda: EWC(examples_per_task=16),
        lambda: EWC(penalty="ekfac", examples_per_task=16),
        lambda: NCL(examples_per_task=16),
    ],
    ids=["OGD", "ONGPrior", "EWC", "EWC, ekfac", "NCL"],
)
@pytest.mark.parametrize("vocabulary", [5_000, 30_000])
def test_an_embedding_takes_no_matrix_of_its_words_by_its_words(make: Callable[[], Method], vocabulary: int) -> None:
    model = nn.Sequential(nn.Embedding(vocabulary, 4), nn.Flatten(), nn.Linear(12, 3))
    generator = torch.Generator().manual_seed(0)
    data = [torch.randint(0, vocabulary, (16, 3), generator=generator), torch.arange(16) % 3]
    method, sgd = make(), torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd), Largest() as largest:
        for _ in range(2):
            method.begin_task(data)
            sgd.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            sgd.step()
            method.end_task()
    # Codes of 16 examples of 3 words, or as many products with them; words by words would be 100 MB and 3.6 GB.
    assert largest.bytes <= 16 * 8 * 4 * vocabulary * 4
    assert method.memory_bytes <= 3 * 16 * (3 + 4) * vocabulary * 4


@pytest.mark.parametrize("make", [OGD, ONGPrior], ids=["OGD", "ONGPrior"])
def test_a_depthwise_convolution_takes_a_small_multiple_of_its_patches(make: Any) -> None:
    """Of 24 channels and 7 × 7 kernels at 28 × 28 pixels; 2.8 GB for four times as many, before."""
    layers = [nn.Conv2d(3, 24, 1), nn.Conv2d(24, 24, 7, padding=3, groups=24), nn.AdaptiveAvgPool2d(1)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(24, 3))
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(8, 3, 28, 28, generator=generator), torch.arange(8) % 3]
    method, sgd = make(directions_per_task=8), torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd), Largest() as largest:
        method.begin_task(data)
        method.end_task()
    patches = 8 * 24 * 49 * 28 * 28 * 4
    assert largest.bytes <= patches
