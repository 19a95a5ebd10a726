"""Steps in the coefficients of directions are the method's steps: same weights, same function, whoever looks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from harness import Products, Skipping, learner, tasks, weights
from nets import mlp
from torch import Tensor, nn

from ong.plugins import OGD, ONG, Diagnostics
from ong.plugins.coefficients import PROBES, Coefficients
from ong.plugins.shadow import Shadow
from ong.streams import InMemoryLoader

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

STEPS = 162  # of three tasks, nine epochs and six batches


@dataclass(frozen=True)
class Method:
    """What is trained, held or plain.

    Attributes:
        sizes: the net's layers.
        make: the plugin, from whether it may hold layers, and options.
        layers: how many layers are held.
        slack: 1 or, where momentum lets rounding grow, 10.
    """

    sizes: tuple[int, ...]
    make: Callable[..., Any]
    layers: int
    slack: float

    def net(self, dtype: torch.dtype = torch.float64) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), *mlp(*self.sizes, dtype=dtype))


def prior(held: bool, **options: Any) -> ONG:
    return ONG(**{"damping": 0.05, "directions_per_task": 6, "scale_tolerance": 0.25, "eigenbasis": held} | options)


METHODS = {
    "ogd": Method((40, 12, 8, 3), lambda held, **options: OGD(directions_per_task=6, **options), 2, 1),
    "ong-prior": Method((60, 24, 8, 3), prior, 1, 10),  # room for two terms: 24 · 61 numbers against 2 · 85
}
every_method = pytest.mark.parametrize("name", METHODS)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes the number of terms of each layer's step that was taken in coefficients."""
    steps: list[int] = []
    take: Callable[[Coefficients, Tensor], None] = Coefficients.take

    def noting(self: Coefficients, step: Tensor) -> None:
        steps.append(len(self.layout) // (len(step) + PROBES))
        take(self, step)

    monkeypatch.setattr(Coefficients, "take", noting)
    return steps


def trained(
    name: str,
    held: bool,
    *plugins: Any,
    dtype: torch.dtype = torch.float64,
    online: bool = False,
    criterion: Callable[[nn.Module], Any] | None = None,
    **options: Any,
) -> tuple[Tensor, Any]:
    """The weights after four tasks, and the strategy; options are SGD's, but for ``plugin``, the plugin's.

    A criterion is made anew from the model where a task or a piece of one begins.
    """
    method, loader = METHODS[name], [InMemoryLoader()] if options.pop("loader", True) else []
    model, plugin = method.net(dtype), method.make(held, **options.pop("plugin", {}))
    strategy = learner(
        model, *loader, Diagnostics(every=3), *plugins, plugin, batch=4, epochs=1 if online else 9, **options
    )
    stream = tasks(4, width=method.sizes[0], dtype=dtype).train_stream
    with pytest.MonkeyPatch.context() as patch:
        if not held:
            patch.setattr(Shadow, "of", lambda *_: [])
        torch.manual_seed(0)  # Avalanche's own loader shuffles by the global generator
        for part in split_online_stream(stream, 8, access_task_boundaries=True, seed=0) if online else stream:
            if criterion is not None:
                strategy._criterion = criterion(model)
            strategy.train(part, eval_streams=[])
    return weights(model), strategy


@pytest.mark.parametrize("loader", [True, False], ids=["kernel of the task", "kernel of the batch"])
@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}], ids=str)
@every_method
def test_162_steps_end_at_the_same_weights(name: str, used: list[int], sgd: dict[str, Any], loader: bool) -> None:
    plain, _ = trained(name, False, loader=loader, **sgd)
    assert not used
    held, _ = trained(name, True, loader=loader, **sgd)
    assert len(used) == STEPS * METHODS[name].layers  # the others are too small
    assert (2 in used) == (name == "ong-prior")
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10 * (METHODS[name].slack if sgd else 1))


@every_method
def test_in_float32_they_agree_to_1e4(name: str, used: list[int]) -> None:
    held, _ = trained(name, True, dtype=torch.float32)
    assert used
    torch.testing.assert_close(held, trained(name, False, dtype=torch.float32)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("options", [{"recompute": True}, {"max_directions": 7}], ids=str)
def test_ogd_plus_and_bounds_too(used: list[int], options: dict[str, Any]) -> None:
    held, _ = trained("ogd", True, plugin=options)
    assert used
    torch.testing.assert_close(held, trained("ogd", False, plugin=options)[0], rtol=0, atol=1e-10)


@pytest.mark.parametrize("options", [{"scale_tolerance": 0.0}, {"pull": 0.3}], ids=str)
def test_with_a_scale_as_it_is_or_a_pull_steps_are_taken_in_vectors(used: list[int], options: dict[str, Any]) -> None:
    held, _ = trained("ong-prior", True, plugin=options)
    torch.testing.assert_close(held, trained("ong-prior", False, plugin=options)[0], rtol=0, atol=1e-10)
    assert not used


def test_the_tolerance_is_what_the_metric_is_off() -> None:
    exact, _ = trained("ong-prior", True, plugin={"scale_tolerance": 0.0})
    gaps = []
    for tolerance in (1.0, 0.25):
        near, _ = trained("ong-prior", True, plugin={"scale_tolerance": tolerance})
        gaps.append(float((near - exact).norm() / exact.norm()))
    assert 0 < gaps[1] < gaps[0] < 0.5


@every_method
def test_diagnostics_are_those_of_plain_training(name: str, used: list[int]) -> None:
    measures = []
    for held in (False, True):
        _, strategy = trained(name, held)
        (diagnostics,) = (p for p in strategy.plugins if isinstance(p, Diagnostics))
        measures.append(diagnostics.measures)
    assert used
    for measure in ("leak_unseen", "descent_cosine"):
        for one, other in zip(measures[0][measure], measures[1][measure], strict=True):
            assert one is other is None or one == pytest.approx(other, rel=1e-6)


class Looker(SupervisedPlugin):
    """Looks at the model in the middle of an epoch as checkpointing code would, and at a copy later."""

    coordinate_free = True

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method, self.pairs, self.copies = method, [], []
        self.x = torch.randn(5, method.sizes[0], generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        inside = strategy.model(self.x).detach()
        self.copies.append((copy.deepcopy(strategy.model), inside))
        fresh = self.method.net()
        fresh.load_state_dict(strategy.model.state_dict())
        self.pairs.append((inside, fresh(self.x).detach()))


@every_method
def test_whoever_looks_in_between_sees_the_network_itself(name: str, used: list[int]) -> None:
    looker = Looker(METHODS[name])
    _, strategy = trained(name, True, looker)
    assert used
    for inside, loaded in looker.pairs:
        torch.testing.assert_close(inside, loaded)
    for copied, inside in looker.copies:
        torch.testing.assert_close(copied(looker.x).detach(), inside)
    assert all("forward" not in vars(module) for module in strategy.model.modules())
    assert not any(hasattr(module, "_ong_held") for module in strategy.model.modules())


@every_method
def test_the_update_is_read_as_such_and_is_off_the_directions(name: str, used: list[int]) -> None:
    reader = Products()
    trained(name, True, reader)
    assert len(used) == STEPS * METHODS[name].layers
    assert len(reader.products) == STEPS
    assert max(reader.products) < 1e-10


@every_method
def test_an_online_stream_keeps_it_from_piece_to_piece(name: str, used: list[int]) -> None:
    ends = [trained(name, held, online=True)[0] for held in (True, False)]
    assert used
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


class Attack(SupervisedPlugin):
    """Takes gradients by the inputs in the middle of a task."""

    coordinate_free = True

    def __init__(self) -> None:
        super().__init__()
        self.slopes: list[Tensor] = []

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        x = strategy.mb_x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(strategy.model(x).square().sum(), x)
        self.slopes.append(slope)


@every_method
def test_gradients_by_the_inputs_know_of_the_coefficients(name: str, used: list[int]) -> None:
    found = []
    for held in (True, False):
        attack = Attack()
        trained(name, held, attack)
        found.append(torch.cat(attack.slopes))
    assert len(used) == STEPS * METHODS[name].layers
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


@every_method
def test_a_step_that_moves_fewer_layers_is_taken_in_vectors(name: str, used: list[int]) -> None:
    """G is restricted to what moves."""
    held, _ = trained(name, True, Skipping())
    assert 0 < len(used) < STEPS * METHODS[name].layers
    torch.testing.assert_close(held, trained(name, False, Skipping())[0], rtol=0, atol=1e-10)


class Reading(nn.Module):
    """Reads its first layer's weight itself, as a number."""

    def __init__(self, width: int, hidden: int, *_: int) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(width, hidden).double(), mlp(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x)) * self.first.weight.detach().mean()


class Penalty(SupervisedPlugin):
    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss += sum(p.square().sum() for p in strategy.model.parameters())


class Pulling(nn.Module):
    """A loss with a pull to the weights at the end of the last task, which no task's first step shows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.before = [model], copy.deepcopy(model.state_dict())

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        moved = [(p - self.before[name]).square().sum() for name, p in self.model[0].named_parameters()]
        return nn.functional.cross_entropy(logits, targets) + torch.stack(moved).sum()


class Rescaling(SupervisedPlugin):
    """Shrinks one layer's gradient from a task's fourth step on."""

    coordinate_free = True

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations > 2:
            for p in strategy.model[1].parameters():
                p.grad *= 0.99


def test_a_penalty_that_no_first_step_shows_is_noticed_at_the_second(used: list[int]) -> None:
    """There it has read W without C, which is one step's; afterwards it reads W."""
    held, _ = trained("ogd", True, criterion=Pulling)
    assert used == [1] * 6  # two layers in the first steps of three tasks
    plain, _ = trained("ogd", False, criterion=Pulling)
    # what one step's penalty misses is 7e-6 in the end; unnoticed it would be .018
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-4)


@every_method
def test_a_gradient_that_others_scale_is_taken_as_it_is(name: str, used: list[int]) -> None:
    held, _ = trained(name, True, Rescaling())
    assert 0 < len(used) < STEPS * METHODS[name].layers
    torch.testing.assert_close(held, trained(name, False, Rescaling())[0], rtol=0, atol=1e-10)


class Rehearsing(SupervisedPlugin):
    """Adds the gradient of another loss, whose graph goes through the model twice."""

    coordinate_free = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.x = torch.randn(5, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        (strategy.model(self.x) - strategy.model(2 * self.x)).square().mean().backward()


@every_method
def test_all_passes_of_a_step_count(name: str, used: list[int]) -> None:
    width = METHODS[name].sizes[0]
    held, _ = trained(name, True, Rehearsing(width))
    assert len(used) == STEPS * METHODS[name].layers
    torch.testing.assert_close(held, trained(name, False, Rehearsing(width))[0], rtol=0, atol=1e-10)


def test_a_pass_in_inference_mode_leaves_training_alone() -> None:
    class Peeking(SupervisedPlugin):
        coordinate_free = True

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            with torch.inference_mode():
                strategy.model(strategy.mb_x.repeat(10, 1))

    torch.testing.assert_close(trained("ogd", True, Peeking())[0], trained("ogd", True)[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("net", "plugins", "sgd", "batch"),
    [
        (Reading, [], {}, 4),
        (mlp, [Penalty], {}, 4),
        (mlp, [], {"momentum": 0.5, "dampening": 0.5}, 4),
        (mlp, [], {}, 24),
    ],
    ids=["reads weights", "penalty", "dampening", "large batch"],
)
@every_method
def test_where_it_is_not_exact_or_does_not_pay_steps_are_taken_in_vectors(
    name: str, used: list[int], net: Callable[..., nn.Module], plugins: list[Any], sgd: dict[str, Any], batch: int
) -> None:
    method = METHODS[name]
    strategy = learner(net(*method.sizes), *(p() for p in plugins), method.make(True), batch=batch, **sgd)
    for experience in tasks(2, width=method.sizes[0]).train_stream:
        strategy.train(experience, eval_streams=[])
    assert not used
