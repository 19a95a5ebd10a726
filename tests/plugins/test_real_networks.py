"""The guarantee Gᵀv = 0 on the networks people train, G by autograd, v what the weights really did."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from harness import learner
from measured import GUARANTEED, PRESETS, HeldSteps, Steps, leak, stored
from torch import Tensor, nn

from ong.curvature import UnsupportedLayerError
from ong.streams import TaskData, benchmark_from_tensors

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

EXAMPLES, CLASSES = 12, 3
EXACT = 1e-6  # float64; GᵀG squares the condition of G, of which 1e-6 is cut


class Twice(nn.Module):
    """One layer at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.shared(torch.tanh(self.first(x))))
        return self.head(torch.tanh(self.shared(h)))


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in names)
    return model


class Case(NamedTuple):
    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (6,)
    dtype: torch.dtype = torch.float64
    options: Any = MappingProxyType({})
    leak: float = EXACT


def mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), *between, nn.Tanh(), nn.Linear(9, CLASSES))


CASES = {
    "dropout": Case(lambda: mlp(nn.Dropout(0.5))),
    "batch norm": Case(lambda: mlp(nn.BatchNorm1d(9))),
    "layer norm": Case(lambda: mlp(nn.LayerNorm(9))),
    "a layer used twice": Case(Twice),
    "a frozen layer": Case(lambda: frozen(mlp(), "0.weight", "0.bias")),
    "a frozen weight": Case(lambda: frozen(mlp(), "0.weight")),
    "a layer that is never used": Case(lambda: nn.Sequential(mlp(), nn.Identity()).append(Unused())),
    "an unknown layer, ignored": Case(lambda: mlp(nn.PReLU()), options={"unsupported": "ignore"}),
    "convolutions": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(4), nn.Tanh(), nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 2, dilation=2), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(16, CLASSES),
        ),
        (2, 16, 16),
    ),
    "convolutions in one dimension": Case(
        lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(21, CLASSES)),
        (2, 7),
    ),
    "an embedding": Case(
        lambda: nn.Sequential(nn.Embedding(11, 5), nn.Flatten(), nn.Tanh(), nn.Linear(20, CLASSES)), (4,), torch.long
    ),
    # 24 bits in the factors and in what is written; 8 bits in both for bfloat16, where plain gradients leak 0.3
    "float32": Case(mlp, dtype=torch.float32, leak=1e-3),
}  # fmt: skip


class Unused(nn.Module):
    """Passes its input on, and has a layer that it does not use."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x


def stream_of(case: Case, tasks: int = 2) -> Any:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(tasks):
        if case.dtype == torch.long:
            x = torch.randint(0, 11, (EXAMPLES, *case.shape), generator=generator)
        else:
            x = torch.randn(EXAMPLES, *case.shape, generator=generator, dtype=torch.float64).to(case.dtype)
        y = torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)
        parts.append(TaskData((x, y), (x, y)))
    return benchmark_from_tensors(parts).train_stream


def built(case: Case, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return case.make().to(torch.float64 if case.dtype == torch.long else case.dtype)


def leaks(model: nn.Module, stream: Any, plugin: Any | None, spy: type[Steps] = Steps) -> list[float]:
    """The leak of each step of the second task against every example of the first."""
    steps = spy()
    strategy = learner(model, steps, *([plugin] if plugin else []), batch=4, epochs=2)
    strategy.train(stream[0], eval_streams=[])
    gradients = stored(model, stream[0])
    steps.taken.clear()
    strategy.train(stream[1], eval_streams=[])
    return [leak(gradients, step) for step in steps.taken]


@pytest.mark.parametrize("case", [name for name in CASES if "unknown" not in name])
@pytest.mark.parametrize("preset", GUARANTEED)
@pytest.mark.parametrize("spy", [Steps, HeldSteps])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_no_step_moves_a_stored_output_at_first_order(spy: type[Steps], preset: str, case: str) -> None:
    what = CASES[case]
    plugin = PRESETS[preset](directions_per_task=EXAMPLES, **what.options)
    model, stream = built(what), stream_of(what)
    assert max(leaks(model, stream, plugin, spy)) < what.leak
    assert min(leaks(built(what), stream, None)) > 0.05  # what a plain gradient does


@pytest.mark.parametrize("preset", GUARANTEED)
def test_an_unknown_layer_that_is_ignored_keeps_its_plain_gradient(preset: str) -> None:
    """Off its parameters the guarantee holds; its own step is −lr times the gradient, to the bit."""
    case = CASES["an unknown layer, ignored"]
    model, stream, steps = built(case), stream_of(case), Steps()
    plugin = PRESETS[preset](directions_per_task=EXAMPLES, unsupported="ignore")
    strategy = learner(model, steps, plugin, batch=EXAMPLES)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        strategy.train(stream[0], eval_streams=[])
        gradients = [{n: g for n, g in one.items() if n != "1.weight"} for one in stored(model, stream[0])]
        steps.taken.clear()
        x, y = data(stream[1])
        expected = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), model[1].weight)[0]
        strategy.train(stream[1], eval_streams=[])
    assert len([w for w in caught if "module '1' of type PReLU" in str(w.message)]) == 1
    (step,) = steps.taken
    torch.testing.assert_close(step["1.weight"], -0.05 * expected, rtol=1e-6, atol=1e-9)  # the order of summation
    assert leak(gradients, {n: v for n, v in step.items() if n != "1.weight"}) < EXACT


@pytest.mark.parametrize("preset", GUARANTEED)
def test_bfloat16_parameters_are_projected_to_their_precision(preset: str) -> None:
    """What is written into .grad is rounded to 8 bits; the weights, rounded too, say little at a small rate."""

    class Noted(Steps):
        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            self.taken.append({n: p.grad.clone() for n, p in strategy.model.named_parameters()})

    def worst(plugin: Any | None) -> float:
        torch.manual_seed(0)
        model, steps = mlp().to(torch.bfloat16), Noted()
        stream = stream_of(Case(mlp, dtype=torch.bfloat16))
        strategy = learner(model, steps, *([plugin] if plugin else []), batch=4)
        strategy.train(stream[0], eval_streams=[])
        gradients = stored(model, stream[0])
        steps.taken.clear()
        strategy.train(stream[1], eval_streams=[])
        assert all(p.dtype == torch.bfloat16 for p in model.parameters())
        return max(leak(gradients, step) for step in steps.taken)

    assert worst(PRESETS[preset](directions_per_task=EXAMPLES)) < 0.02
    assert worst(None) > 0.2


def data(experience: Any) -> tuple[Tensor, Tensor]:
    x, y, *_ = zip(*experience.dataset, strict=True)
    return torch.stack(x), torch.stack(y)


@torch.no_grad()
def loss(model: nn.Module, experience: Any) -> float:
    """Of a task, without dropout but with the batch's statistics, which training minimises."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        module.training = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    x, y = data(experience)
    return float(nn.functional.cross_entropy(model(x), y))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.filterwarnings("ignore:Using padding='same'", "ignore:module .* holds trainable")
def test_every_preset_learns_on_every_net(preset: str, case: str) -> None:
    what = CASES[case]
    model, stream = built(what), stream_of(what)
    strategy = learner(model, PRESETS[preset](directions_per_task=4, **what.options), batch=4, epochs=6, lr=0.02)
    strategy.train(stream[0], eval_streams=[])
    before = loss(model, stream[1])
    strategy.train(stream[1], eval_streams=[])
    assert loss(model, stream[1]) < before


def test_directions_and_curvature_are_taken_in_eval_mode_and_modes_come_back() -> None:
    case = CASES["dropout"]
    model, stream = built(case), stream_of(case)
    model[1].eval()  # a layer that the user keeps in eval mode
    plugin = PRESETS["ong-prior"](directions_per_task=EXAMPLES)
    modes: list[list[bool]] = []

    class Modes(Steps):
        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
            modes.append([m.training for m in strategy.model.modules()])

    strategy = learner(model, Modes(), plugin, Modes(), batch=4)
    strategy.train(stream[0], eval_streams=[])
    assert modes[0] == modes[1]
    assert not any(module._forward_hooks for module in model.modules())
    unit = torch.eye(EXAMPLES, dtype=torch.float64)
    found = {tuple(plugin.memory.combine(unit[i])["0"].flatten()[:3].tolist()) for i in range(EXAMPLES)}
    expected = [torch.cat([g["0.weight"], g["0.bias"][:, None]], 1) for g in stored(model, stream[0])]
    for g in expected:  # in some order
        assert min(sum(abs(a - b) for a, b in zip(g.flatten()[:3].tolist(), f, strict=True)) for f in found) < 1e-12


def incremental() -> tuple[nn.Module, Any]:
    """A growing head, and a class-incremental stream of two classes a task (Avalanche grows in float32 only)."""
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


@pytest.mark.parametrize("spy", [Steps, HeldSteps])
@pytest.mark.parametrize("preset", GUARANTEED)
def test_a_growing_head_keeps_its_old_columns_and_learns_with_the_new(preset: str, spy: type[Steps]) -> None:
    model, benchmark = incremental()
    steps, plugin = spy(), PRESETS[preset](directions_per_task=EXAMPLES)
    strategy = learner(model, steps, plugin, batch=4, epochs=12, lr=0.1)
    gradients = []
    for task, experience in enumerate(benchmark.train_stream):
        strategy.train(experience, eval_streams=[])
        head = model[2].classifier
        assert head.out_features == 2 * task + 2
        assert all(leak(gradients, step) < 1e-3 for step in steps.taken if gradients)  # float32
        assert all(float(step["2.classifier.weight"][-2:].norm()) > 0 for step in steps.taken)
        x, y = data(experience)
        assert torch.equal(model.eval()(x).argmax(1), y)  # separable, and learned
        gradients += stored(model, experience)
        steps.taken.clear()
        first = {name: rows.dense(torch.arange(EXAMPLES)) for name, rows in plugin.memory.rows.items()}
        assert not first["2.classifier"][:, 2:].any()  # the first task's directions grew with zeros
    assert plugin.memory.rows["2.classifier"].shape == (6, 13)


@pytest.mark.parametrize("preset", PRESETS)
def test_evaluating_all_classes_between_tasks_grows_the_head_early_and_harmlessly(preset: str) -> None:
    model, benchmark = incremental()
    steps, plugin = Steps(), PRESETS[preset](directions_per_task=EXAMPLES)
    strategy = learner(model, steps, plugin, batch=4)
    gradients = []
    for experience in benchmark.train_stream:
        steps.taken.clear()
        strategy.train(experience, eval_streams=[])
        if preset in GUARANTEED:
            assert all(leak(gradients, step) < 1e-3 for step in steps.taken if gradients)
        gradients += stored(model, experience)
        strategy.eval(benchmark.test_stream)
    assert model[2].classifier.out_features == 6
    assert len(plugin.memory) == (0 if preset == "ngd" else 3 * EXAMPLES)


class Heads(MultiTaskModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.Tanh())
        self.heads = MultiHeadClassifier(9)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        return self.heads(self.body(x), task_labels)


@pytest.mark.parametrize("spy", [Steps, HeldSteps])
@pytest.mark.parametrize("preset", GUARANTEED)
def test_heads_of_other_tasks_stay_to_the_bit_and_their_outputs_to_first_order(preset: str, spy: type[Steps]) -> None:
    """The constraint is over what moves: cutting the old head's part out of a step would leak."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(3):
        x, y = torch.randn(EXAMPLES, 6, generator=generator), torch.arange(EXAMPLES) % 2
        parts.append(TaskData((x, y), (x, y)))
    stream = benchmark_from_tensors(parts, task_aware=True).train_stream
    model, steps, plugin = Heads(), spy(), PRESETS[preset](directions_per_task=EXAMPLES)
    strategy = learner(model, steps, plugin, batch=4, epochs=2)
    gradients: list[Any] = []
    for task, experience in enumerate(stream):
        strategy.train(experience, eval_streams=[])
        assert all(leak(gradients, step) < 2e-3 for step in steps.taken if gradients)  # float32
        moved = {name.split(".")[2] for step in steps.taken for name, v in step.items() if "heads" in name and v.any()}
        assert moved == {str(task)}
        gradients += stored(model, experience)
        steps.taken.clear()
    assert any(part["heads.classifiers.0.classifier.weight"].any() for part in gradients[:EXAMPLES])


def test_transposed_convolutions_are_refused_by_name_before_training() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(1, 2, 2), nn.Flatten(), nn.Linear(2 * 5 * 5, CLASSES)).double()
    strategy = learner(model, PRESETS["ogd"]())
    with pytest.raises(UnsupportedLayerError, match=r"module '0' of type ConvTranspose2d .*unsupported='ignore'"):
        strategy.train(stream_of(Case(mlp, (1, 4, 4)))[0], eval_streams=[])


def test_batch_statistics_instead_of_running_ones_are_refused_before_training() -> None:
    model = mlp(nn.BatchNorm1d(9, track_running_stats=False)).double()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(UnsupportedLayerError, match="BatchNorm1d mixes the examples"):
        learner(model, PRESETS["ogd"]()).train(stream_of(Case(mlp))[0], eval_streams=[])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
