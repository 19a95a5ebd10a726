"""Layers held in other coordinates while a task is trained: nobody is misled, whatever happens in between."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import ReplayPlugin
from avalanche.training.supervised import Naive, Replay
from harness import learner, tasks, weights
from nets import mlp
from torch import Tensor, nn

from ong.plugins import OGD, ONG
from ong.plugins.coefficients import Coefficients
from ong.plugins.shadow import Shadow
from ong.streams import InMemoryLoader

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

WIDTH = 40
PLUGINS: dict[str, Callable[[], Any]] = {
    "ogd": lambda: OGD(directions_per_task=6),
    "ong-prior": lambda: ONG(damping=0.05, directions_per_task=6),
    "ong-prior, in coefficients": lambda: ONG(damping=0.05, directions_per_task=6, scale_tolerance=1.0),
    "ong-prior, no directions": lambda: ONG(damping=0.05, projection="none"),
    "ngd": lambda: ONG(metric="current", projection="none", damping=0.05, refresh_every=4),
    "ong-v1": lambda: ONG(
        metric="current", projection="euclidean", damping=0.05, refresh_every=4, directions_per_task=6
    ),
}
both = pytest.mark.parametrize("name", PLUGINS)


def net(*first: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *first, *mlp(WIDTH, 12, 8, 3))


def make(name: str, held: bool) -> Any:
    plugin = PLUGINS[name]()
    if not held and isinstance(plugin, ONG):
        plugin.eigenbasis = False
    return plugin


def compared(work: Callable[[bool], Tensor], name: str) -> tuple[Tensor, Tensor]:
    """What work returns with layers held and without."""
    results = []
    for held in (True, False):
        with pytest.MonkeyPatch.context() as patch:
            if not held:
                patch.setattr(Shadow, "of", lambda *_: [])
            torch.manual_seed(0)
            results.append(work(held))
    return results[0], results[1]


def taught(strategy: Any, count: int = 3) -> Tensor:
    """The weights after some tasks."""
    for experience in tasks(count, width=WIDTH).train_stream:
        strategy.train(experience, eval_streams=[])
    return weights(strategy.model)


class BrokenError(RuntimeError):
    pass


class Breaking(SupervisedPlugin):
    """Stops training in the middle of an epoch, once."""

    coordinate_free = True

    def __init__(self) -> None:
        super().__init__()
        self.armed = False

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        if self.armed and strategy.clock.train_exp_iterations == 3:
            self.armed = False
            raise BrokenError


@both
@pytest.mark.parametrize("new_plugin", [False, True])
def test_training_that_broke_off_goes_on_from_the_weights_it_had(name: str, new_plugin: bool) -> None:
    def work(held: bool) -> Tensor:
        model, breaking, plugin = net(), Breaking(), make(name, held)
        stream = tasks(3, width=WIDTH).train_stream
        strategy = learner(model, InMemoryLoader(), breaking, plugin, batch=4)
        strategy.train(stream[0], eval_streams=[])
        breaking.armed = True
        with pytest.raises(BrokenError):
            strategy.train(stream[1], eval_streams=[])
        if new_plugin:
            state = plugin.state_dict() | {"step": 0}
            plugin = make(name, held)
            plugin.load_state_dict(state)
            strategy = learner(model, InMemoryLoader(), plugin, batch=4)
        for experience in (stream[1], stream[2]):
            strategy.train(experience, eval_streams=[])
            model.state_dict()
        assert not any(hasattr(module, "_ong_held") for module in model.modules())
        return weights(model)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize(
    "noise", [nn.Dropout(0.4), nn.Dropout(0.4, inplace=True), nn.ReLU(inplace=True)], ids=("new", "in place", "relu")
)
def test_noise_on_the_inputs_reaches_the_layer(name: str, noise: nn.Module) -> None:
    def work(held: bool) -> Tensor:
        model = net(noise)
        strategy = learner(model, InMemoryLoader(), make(name, held), batch=4)
        for experience in tasks(3, width=WIDTH).train_stream:
            torch.manual_seed(1)
            strategy.train(experience, eval_streams=[])
        return weights(model)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize("strategy", ["appended", "first"])
def test_replayed_batches_are_read_as_they_come(name: str, strategy: str) -> None:
    def work(held: bool) -> Tensor:
        model = net()
        plugins = [InMemoryLoader(), make(name, held)]
        options: dict[str, Any] = {"train_mb_size": 4, "train_epochs": 2}
        if strategy == "appended":
            sgd = torch.optim.SGD(model.parameters(), lr=0.05)
            learned: Any = Replay(
                model=model, optimizer=sgd, criterion=nn.CrossEntropyLoss(), mem_size=20, plugins=plugins, **options
            )
        else:
            learned = learner(model, ReplayPlugin(mem_size=20), *plugins, batch=4, epochs=2)
        for experience in tasks(3, width=WIDTH).train_stream:
            torch.manual_seed(1)
            learned.train(experience, eval_streams=[])
        return weights(model)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ogd", "ong-prior, in coefficients"])
def test_a_penalty_inside_the_criterion_keeps_it_to_vectors(name: str) -> None:
    moved: list[Tensor] = []

    def work(held: bool) -> Tensor:
        model = net()
        strategy = learner(model, InMemoryLoader(), make(name, held), batch=4)
        strategy._criterion = lambda out, y: (
            nn.functional.cross_entropy(out, y) + 0.1 * sum(p.square().sum() for p in model.parameters())
        )
        return taught(strategy)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Coefficients, "take", lambda self, step: moved.append(step))
        held, plain = compared(work, name)
    assert not moved
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ogd", "ong-prior, in coefficients"])
def test_a_second_pass_inside_the_criterion_that_begins_later_keeps_it_to_vectors(name: str) -> None:
    """A consistency term that is warmed up: nothing at the first step tells of it."""

    def work(held: bool) -> Tensor:
        model, calls = net(), [0]
        strategy = learner(model, InMemoryLoader(), make(name, held), batch=4)

        def criterion(out: Tensor, y: Tensor) -> Tensor:
            calls[0] += 1
            loss = nn.functional.cross_entropy(out, y)
            if calls[0] % 6 < 3:
                return loss
            return loss + 0.3 * model(strategy.mb_x + 0.1).square().mean()

        strategy._criterion = criterion
        return taught(strategy)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


class Copying(SupervisedPlugin):
    coordinate_free = True

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[nn.Module, Tensor]] = []

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        copied = copy.deepcopy(strategy.model)
        self.copies.append((copied, _read(strategy.model)))


def _read(model: nn.Module) -> Tensor:
    """The weights as ``state_dict`` of a copy of a copy tells them, the model itself untouched."""
    copied = copy.deepcopy(copy.deepcopy(model))
    return torch.cat([value.flatten() for value in copied.state_dict().values()])


@both
def test_a_copy_tells_the_original_weights_and_leaves_the_model_held(name: str) -> None:
    copying = Copying()
    model = net()
    strategy = learner(model, InMemoryLoader(), copying, make(name, True), batch=4)
    seen: list[bool] = []

    class Checking(SupervisedPlugin):
        coordinate_free = True

        def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
            seen.append(any(hasattr(module, "_ong_held") for module in strategy.model.modules()))

    strategy.plugins.append(Checking())
    for experience in tasks(2, width=WIDTH).train_stream:
        strategy.train(experience, eval_streams=[])
    assert seen == [name in ("ngd", "ong-v1")] * 6 + [True] * 6
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for copied, told in copying.copies:
        before = copied(x).detach()
        state = copied.state_dict()
        torch.testing.assert_close(torch.cat([value.flatten() for value in state.values()]), told)
        fresh = net()
        fresh.load_state_dict(state)
        torch.testing.assert_close(fresh(x).detach(), before)
        torch.testing.assert_close(copied(x).detach(), before)


@both
def test_a_layer_frozen_in_the_middle_of_a_task_stays(name: str) -> None:
    class Freezing(SupervisedPlugin):
        coordinate_free = True

        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            if strategy.clock.train_exp_counter == 1 and strategy.clock.train_exp_epochs == 1:
                strategy.model[1].requires_grad_(False)
                self.weight = strategy.model[1].weight.detach().clone()

    model, freezing = net(), Freezing()
    strategy = learner(model, InMemoryLoader(), freezing, make(name, True), batch=4, epochs=3)
    for experience in tasks(2, width=WIDTH).train_stream:
        strategy.train(experience, eval_streams=[])
    torch.testing.assert_close(model[1].weight, freezing.weight, rtol=0, atol=0 if name == "ogd" else 1e-12)


class Saving(SupervisedPlugin):
    """Reads the model's state at one place of every third step."""

    coordinate_free = True

    def __init__(self, hook: str) -> None:
        super().__init__()
        setattr(self, hook, self._read)

    def _read(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations % 3 == 1:
            strategy.model.state_dict()


@pytest.mark.parametrize("after", [True, False], ids=["after", "before"])
@pytest.mark.parametrize("hook", ["after_backward", "before_update", "after_update"])
@both
def test_a_state_read_in_the_middle_of_a_step_leaves_it_as_it_is(name: str, hook: str, after: bool) -> None:
    """With momentum, which must belong to the weights it moves; the reader stands before or after the plugin."""

    def work(held: bool) -> Tensor:
        model, reader = net(), Saving(hook)
        plugins = [make(name, held), reader] if after else [reader, make(name, held)]
        strategy = learner(model, InMemoryLoader(), *plugins, batch=4, momentum=0.8)
        return taught(strategy)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


def test_a_state_read_between_forward_and_backward_does_not_pass_unnoticed() -> None:
    strategy = learner(net(), InMemoryLoader(), Saving("after_forward"), make("ong-prior", True), batch=4)
    first, second = tasks(2, width=WIDTH).train_stream
    strategy.train(first, eval_streams=[])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        strategy.train(second, eval_streams=[])


@both
def test_gradients_of_gradients_go_through_held_layers(name: str) -> None:
    """A penalty on the slope by the inputs trains as in the original coordinates."""

    class Slope(SupervisedPlugin):
        coordinate_free = True

        def after_forward(self, strategy: Any, **kwargs: Any) -> None:
            x = strategy.mb_x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(strategy.model(x).square().sum(), x, create_graph=True)
            (slope.square().sum() / 100).backward()

    def work(held: bool) -> Tensor:
        model = net()
        strategy = learner(model, InMemoryLoader(), Slope(), make(name, held), batch=4)
        return taught(strategy, 2)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


def test_bfloat16_layers_train_in_the_original_coordinates() -> None:
    model = nn.Sequential(nn.Flatten(), *mlp(WIDTH, 12, 8, 3, dtype=torch.bfloat16))
    strategy = learner(model, InMemoryLoader(), ONG(damping=0.05, directions_per_task=6), batch=4)
    for experience in tasks(2, width=WIDTH, dtype=torch.bfloat16).train_stream:
        strategy.train(experience, eval_streams=[])
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in model.parameters())


class Named(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = mlp(WIDTH, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(input=x)
        return x


@both
def test_layers_may_be_called_by_keyword(name: str) -> None:
    held, plain = compared(lambda held: taught(learner(Named(), InMemoryLoader(), make(name, held), batch=4)), name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@both
def test_pieces_of_an_online_stream_train_as_in_the_original_coordinates(name: str) -> None:
    def work(held: bool) -> Tensor:
        strategy = learner(net(), InMemoryLoader(), make(name, held), batch=4)
        stream = tasks(3, width=WIDTH).train_stream
        for piece in split_online_stream(stream, experience_size=8, seed=0, access_task_boundaries=True):
            strategy.train(piece, eval_streams=[])
        return weights(strategy.model)

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@both
def test_a_checkpoint_loaded_after_training_broke_off_is_what_the_model_is(name: str) -> None:
    model, breaking = net(), Breaking()
    first, second = tasks(2, width=WIDTH).train_stream
    strategy = learner(model, InMemoryLoader(), breaking, make(name, True), batch=4, momentum=0.8)
    strategy.train(first, eval_streams=[])
    kept, momentum = copy.deepcopy(model.state_dict()), copy.deepcopy(strategy.optimizer.state_dict())
    breaking.armed = True
    with pytest.raises(BrokenError):
        strategy.train(second, eval_streams=[])
    assert any(hasattr(module, "_ong_held") for module in model.modules())
    model.load_state_dict(kept)
    strategy.optimizer.load_state_dict(momentum)
    for _ in range(2):  # reading it does not change it
        for key, value in model.state_dict().items():
            assert torch.equal(value, kept[key])
    strategy.train(second, eval_streams=[])  # goes on


@both
def test_momentum_saved_in_the_middle_of_training_is_the_original_weights(name: str) -> None:
    def work(held: bool) -> Tensor:
        breaking = Breaking()
        strategy = learner(net(), InMemoryLoader(), breaking, make(name, held), batch=4, momentum=0.8)
        first, second = tasks(2, width=WIDTH).train_stream
        strategy.train(first, eval_streams=[])
        breaking.armed = True
        with pytest.raises(BrokenError):
            strategy.train(second, eval_streams=[])
        states = strategy.optimizer.state_dict()["state"].values()
        return torch.cat([state["momentum_buffer"].flatten() for state in states])

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


class Clipping(Naive):  # type: ignore[misc]
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
    """Steps at every second batch."""

    def training_epoch(self, **kwargs: Any) -> None:
        for place, batch in enumerate(self.dataloader):
            self.mbatch = batch
            self._unpack_minibatch()
            self._before_training_iteration(**kwargs)
            if place % 2 == 0:
                self.optimizer.zero_grad()
            self._before_forward(**kwargs)
            self.mb_output = self.forward()
            self._after_forward(**kwargs)
            self.loss = self.criterion() / 2
            self._before_backward(**kwargs)
            self.backward()
            self._after_backward(**kwargs)
            if place % 2:
                self._before_update(**kwargs)
                self.optimizer_step()
                self._after_update(**kwargs)
            self._after_training_iteration(**kwargs)


@both
@pytest.mark.parametrize("kind", [Clipping, Scaling, Accumulating])
def test_strategies_that_step_in_their_own_way_are_served_in_the_original_coordinates(
    name: str, kind: type[Naive]
) -> None:
    def work(held: bool) -> Tensor:
        model = net()
        sgd = torch.optim.SGD(model.parameters(), lr=0.05)
        loss, plugins = nn.CrossEntropyLoss(), [InMemoryLoader(), make(name, held)]
        return taught(kind(model=model, optimizer=sgd, criterion=loss, train_mb_size=4, plugins=plugins))

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@both
@pytest.mark.parametrize("rule", [{}, {"weight_decay": 0.05}, {"lr": 0.1}, {"momentum": 0.8}], ids=str)
def test_a_bias_may_move_by_a_rule_of_its_own(name: str, rule: dict[str, float]) -> None:
    """The eigenbasis mixes a layer's weight and bias, so it is for layers where both move alike."""

    def work(held: bool) -> Tensor:
        model = net()
        strategy = learner(model, InMemoryLoader(), make(name, held), batch=4)
        named = list(model.named_parameters())
        own = [p for key, p in named if key.endswith("bias")]
        others = [p for key, p in named if key.endswith("weight")]
        strategy.optimizer = torch.optim.SGD([{"params": others}, {"params": own} | rule], lr=0.05)
        return taught(strategy)

    with pytest.warns(UserWarning, match="weight decay") if "weight_decay" in rule else contextlib.nullcontext():
        held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)


@both
def test_a_forward_that_somebody_put_on_a_layer_stays(name: str) -> None:
    def work(held: bool) -> Tensor:
        model = net()
        usual = model[1].forward
        model[1].forward = lambda x: usual(x)  # as those do who watch
        result = taught(learner(model, InMemoryLoader(), make(name, held), batch=4))
        assert "forward" in vars(model[1])
        return result

    held, plain = compared(work, name)
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)
