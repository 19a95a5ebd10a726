"""Plugins saved and loaded in a strategy, between tasks and in the middle of one, go on to the bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from harness import PLUGINS, learner, tasks, weights
from methods.matrices import same, saved
from nets import mlp

from ong.errors import UserError
from ong.plugins import EWC, OGD, Diagnostics

pytestmark = pytest.mark.filterwarnings(
    "ignore:No loggers", "ignore:GPM. past inputs span", "ignore:.*of the space is left"
)
SHORT: dict[str, Any] = {"directions_per_task": 5}
OPTIONS: dict[str, Any] = dict.fromkeys(("ogd", "ogd+", "ong-v1", "ong", "ong-prior", "fopng"), SHORT)
every = pytest.mark.parametrize("name", PLUGINS)


class Run:
    """A strategy with Diagnostics and one of our plugins, and all its state."""

    def __init__(self, name: str, state: Any = None, **options: Any) -> None:
        self.plugin = PLUGINS[name](**OPTIONS.get(name, {}))
        self.diagnostics = Diagnostics(every=2, directions_per_task=5)
        self.model = mlp(6, 12, 3)
        self.strategy = learner(self.model, self.diagnostics, self.plugin, momentum=0.5, **options)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.strategy.make_optimizer(reset_optimizer_state=True)  # as Avalanche does at a first task
            self.strategy.optimizer.load_state_dict(state["optimizer"])
            self.plugin.load_state_dict(state["plugin"])
            self.diagnostics.load_state_dict(state["diagnostics"])
            torch.set_rng_state(state["rng"])

    def state(self) -> Any:
        return saved(
            {
                "model": self.model.state_dict(),
                "optimizer": self.strategy.optimizer.state_dict(),
                "plugin": self.plugin.state_dict(),
                "diagnostics": self.diagnostics.state_dict(),
                "rng": torch.get_rng_state(),
            }
        )

    def train(self, experiences: Any) -> None:
        for experience in experiences:
            self.strategy.train(experience, eval_streams=[])


def agree(whole: Run, resumed: Run) -> None:
    assert torch.equal(weights(whole.model), weights(resumed.model))
    assert same(whole.plugin.state_dict(), resumed.plugin.state_dict())
    assert same(whole.diagnostics.state_dict(), resumed.diagnostics.state_dict())
    assert whole.diagnostics.steps == resumed.diagnostics.steps
    assert whole.plugin.statistics() == resumed.plugin.statistics()


@every
def test_between_tasks(name: str) -> None:
    stream = tasks(4).train_stream
    torch.manual_seed(0)
    whole = Run(name)
    whole.train(stream[:2])
    state = whole.state()
    whole.train(stream[2:])
    resumed = Run(name, state)
    resumed.train(stream[2:])
    agree(whole, resumed)
    assert whole.plugin.method.tasks == 4


@pytest.mark.parametrize("pieces", [7, 8])  # in the middle of the second task of 4 pieces, and at its end
@every
def test_between_the_pieces_of_an_online_task(name: str, pieces: int) -> None:
    stream = list(split_online_stream(tasks(3).train_stream, 6, access_task_boundaries=True, seed=0))
    torch.manual_seed(0)
    whole = Run(name)
    whole.train(stream[:pieces])
    state = whole.state()
    whole.train(stream[pieces:])
    resumed = Run(name, state)
    resumed.train(stream[pieces:])
    agree(whole, resumed)
    assert whole.plugin.method.tasks == 3


class SaveAfterEpoch(SupervisedPlugin):  # type: ignore[misc]
    """Saves a run as a user may, before the first epoch of a task and after it."""

    def __init__(self, run: Run, task: int) -> None:
        super().__init__()
        self.run, self.task, self.state, self.first = run, task, None, None

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter == self.task and strategy.clock.train_exp_epochs == 0:
            self.first = self.run.state()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter == self.task and strategy.clock.train_exp_epochs == 0:
            self.state = self.run.state()


@every
def test_between_the_epochs_of_a_task(name: str) -> None:
    stream = tasks(3).train_stream
    torch.manual_seed(0)
    whole = Run(name, epochs=2)
    saver = SaveAfterEpoch(whole, task=1)
    whole.strategy.plugins.insert(0, saver)
    whole.train(stream)
    resumed = Run(name, saver.state, epochs=2)
    resumed.strategy.train_epochs = 1  # what is left of the second task
    resumed.train(stream[1:2])
    resumed.strategy.train_epochs = 2
    resumed.train(stream[2:])
    agree(whole, resumed)
    again = Run(name, saver.first, epochs=2).state()  # saved as it was loaded
    from_the_start = Run(name, again, epochs=2)  # of the second task, before its first step
    from_the_start.train(stream[1:])
    agree(whole, from_the_start)


def test_the_state_of_another_methods_plugin_is_refused() -> None:
    with pytest.raises(UserError, match="this is the state of 'EWC', not of OGD"):
        OGD().load_state_dict(EWC().state_dict())


@pytest.mark.parametrize("name", ["ogd", "ong", "si"])
def test_loading_into_a_plugin_that_has_trained_forgets_what_it_knew(name: str) -> None:
    stream = tasks(3).train_stream
    torch.manual_seed(0)
    whole = Run(name)
    whole.train(stream[:1])
    state = whole.state()
    whole.train(stream[1:2])
    used = Run(name)
    used.train(stream[2:])
    fresh = Run(name, state)
    fresh.plugin, fresh.diagnostics = used.plugin, used.diagnostics
    fresh.plugin.load_state_dict(state["plugin"])
    fresh.diagnostics.load_state_dict(state["diagnostics"])
    fresh.strategy.plugins[:2] = [used.diagnostics, used.plugin]
    torch.set_rng_state(state["rng"])
    fresh.train(stream[1:2])
    agree(whole, fresh)
