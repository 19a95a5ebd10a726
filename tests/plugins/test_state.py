"""Plugins saved and loaded, between tasks and in the middle of one, go on to the bit."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from harness import learner, tasks, weights
from measured import PRESETS
from nets import mlp

from ong.plugins import FOPNG, GPM, NCL, ONG, OWM, Diagnostics

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

RUNNING: dict[str, Any] = {"damping": 0.05, "refresh_every": 3, "fisher_examples": 10}
PLUGINS: dict[str, Any] = {
    **{name: lambda make=make: make(directions_per_task=5) for name, make in PRESETS.items()},
    "ong-prior with a pull": lambda: PRESETS["ong-prior"](directions_per_task=5, pull=0.5, fisher="rademacher"),
    "ogd, bounded": lambda: PRESETS["ogd"](directions_per_task=5, max_directions=7),
    "ong, bounded": lambda: PRESETS["ong"](directions_per_task=5, max_directions=7),
    "ogd+": lambda: PRESETS["ogd"](directions_per_task=5, recompute=True),
    "ngd, running": lambda: ONG(metric="current", projection="none", fisher="empirical", running=True, **RUNNING),
    "ong-v1, running": lambda: ONG(
        metric="current", projection="euclidean", fisher="empirical", running=True, directions_per_task=5, **RUNNING
    ),
    "ncl": lambda: NCL(fisher="mc"),
    "owm": OWM,
    "gpm": GPM,
    "fopng": lambda: FOPNG(directions_per_task=5, max_directions=7),
}


def saved(state: Any) -> Any:
    """Through a file that holds tensors and plain values only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Run:
    """A strategy with Diagnostics and one of our plugins, and all its state."""

    def __init__(self, name: str, state: Any = None, **options: Any) -> None:
        self.model, self.plugins = mlp(6, 12, 3), [Diagnostics(every=2, directions_per_task=5), PLUGINS[name]()]
        self.strategy = learner(self.model, *self.plugins, batch=4, momentum=0.5, **options)
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.strategy.make_optimizer(reset_optimizer_state=True)  # as Avalanche does at a first task
            self.strategy.optimizer.load_state_dict(state["optimizer"])
            for plugin, kept in zip(self.plugins, state["plugins"], strict=True):
                plugin.load_state_dict(kept)
            torch.set_rng_state(state["rng"])

    def state(self) -> Any:
        return saved(
            {
                "model": self.model.state_dict(),
                "optimizer": self.strategy.optimizer.state_dict(),
                "plugins": [plugin.state_dict() for plugin in self.plugins],
                "rng": torch.get_rng_state(),
            }
        )

    def train(self, experiences: Any) -> None:
        for experience in experiences:
            self.strategy.train(experience, eval_streams=[])


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right


def agree(whole: Run, resumed: Run) -> None:
    assert torch.equal(weights(whole.model), weights(resumed.model))
    for left, right in zip(whole.plugins, resumed.plugins, strict=True):
        assert same(left.state_dict(), right.state_dict())
    assert whole.plugins[0].steps == resumed.plugins[0].steps
    assert whole.plugins[1].statistics() == resumed.plugins[1].statistics()


@pytest.mark.parametrize("name", PLUGINS)
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


@pytest.mark.parametrize("pieces", [7, 8, 9])  # in the middle of the third task of 4 pieces, and at its end
@pytest.mark.parametrize("name", PLUGINS)
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
    assert len(whole.plugins[1].tasks_seen) == 3


class SaveAfterEpoch(SupervisedPlugin):
    """Saves a run as a user may: weights by ``state_dict``, which are the original ones whatever they train in."""

    coordinate_free = True

    def __init__(self, run: Run, task: int) -> None:
        super().__init__()
        self.run, self.task, self.state, self.first = run, task, None, None

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter == self.task and strategy.clock.train_exp_epochs == 0:
            self.first = self.run.state()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter == self.task and strategy.clock.train_exp_epochs == 0:
            self.state = self.run.state()


@pytest.mark.parametrize("name", PLUGINS)
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


@pytest.mark.parametrize("name", PLUGINS)
def test_a_state_is_a_copy_that_training_on_does_not_change(name: str) -> None:
    stream = tasks(3).train_stream
    run = Run(name)
    run.train(stream[:1])
    state = [plugin.state_dict() for plugin in run.plugins]
    before = copy.deepcopy(state)
    run.train(stream[1:])
    assert same(state, before)


@pytest.mark.parametrize("name", ["ogd", "ong", "ong-prior"])
def test_loading_into_a_plugin_that_has_trained_forgets_what_it_knew(name: str) -> None:
    stream = tasks(3).train_stream
    torch.manual_seed(0)
    whole = Run(name)
    whole.train(stream[:1])
    state = whole.state()
    whole.train(stream[1:2])
    used = Run(name)
    used.train(stream[2:])
    for plugin, kept in zip(used.plugins, state["plugins"], strict=True):
        plugin.load_state_dict(kept)
    fresh = Run(name, state)
    fresh.plugins = used.plugins
    fresh.strategy.plugins[:2] = used.plugins
    fresh.train(stream[1:2])
    agree(whole, fresh)
