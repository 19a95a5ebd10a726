"""Every method saved and loaded, between tasks and in the middle of one, goes on to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from methods.matrices import Learner, Task, parts, same, saved, tasks, vectors
from nets import mlp

from ong import methods
from ong.errors import UserError
from ong.methods import EWC, FOPNG, GPM, NCL, NGD, OGD, ONG, OWM, SGP, SI, Method, OGDPlus, ONGPrior, ONGReplay, ONGv1

CURRENT: dict[str, Any] = {"damping": 0.05, "refresh_every": 2, "examples_per_task": 10}
METHODS: dict[str, Callable[[], Method]] = {
    "ogd": lambda: OGD(directions_per_task=5),
    "ogd, bounded": lambda: OGD(directions_per_task=5, max_directions=7),
    "ogd, leading": lambda: OGD(directions_per_task=5, examples_per_task=12, keep="leading"),
    "ogd, pivoted": lambda: OGD(directions_per_task=5, examples_per_task=12),
    "ogd+": lambda: OGDPlus(directions_per_task=5),
    "ngd": lambda: NGD(**CURRENT),
    "ong-v1": lambda: ONGv1(directions_per_task=5, **CURRENT),
    "ong": lambda: ONG(directions_per_task=5, max_directions=7, **CURRENT),
    "ong-prior": lambda: ONGPrior(directions_per_task=5),
    "ong-prior, thin, with a pull": lambda: ONGPrior(directions_per_task=5, pull=0.5, rank=2, fisher="rademacher"),
    "ncl": lambda: NCL(fisher="mc"),
    "ong-replay": lambda: ONGReplay(examples=10, replay_batch=4),
    "owm": OWM,
    "gpm": GPM,
    "sgp": SGP,
    "fopng": lambda: FOPNG(directions_per_task=5, max_directions=7, refresh_every=2, examples_per_task=10),
    "ewc": lambda: EWC(strength=3.0),
    "ewc, online": lambda: EWC(strength=3.0, mode="online", decay=0.9),
    "ewc, ekfac": lambda: EWC(strength=3.0, penalty="ekfac"),
    "ewc, ekfac, online": lambda: EWC(strength=3.0, penalty="ekfac", mode="online", decay=0.9, rank=2),
    "si": lambda: SI(strength=5.0, damping=0.05),
}
METHODS |= {  # a method in a new file, with the options it has by default
    name: method
    for name, method in methods.METHODS.items()
    if method not in {type(make()) for make in METHODS.values()}
}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.05, "momentum": 0.5},
    "adam": {"optimizer": torch.optim.Adam, "lr": 0.01},
}
STREAM = tasks(4)
every = pytest.mark.parametrize("name", METHODS)


class Run(Learner):
    """A learner that can be put into a file and come back from it."""

    def __init__(self, name: str, optimizer: str = "sgd", state: Any = None) -> None:
        self.name, self.kind = name, optimizer
        method, model = METHODS[name](), mlp(6, 12, 3)
        if state is not None:
            model.load_state_dict(state["model"])
        super().__init__(method, model, batch=4, **OPTIMIZERS[optimizer])
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            method.load_state_dict(state["method"])

    def again(self) -> Run:
        """All of it through a file."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
        }
        return Run(self.name, self.kind, saved(state))

    def go(self, data: Task, start: int = 0, stop: int = 12) -> Run:
        """The steps of two epochs of a task, or some of them."""
        for part in [*parts(data, 4), *parts(data, 4)][start:stop]:
            self.step(part)
        return self


def agree(one: Run, other: Run) -> None:
    for left, right in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(left, right)
    assert same(one.method.state_dict(), other.method.state_dict())
    assert one.method.statistics() == other.method.statistics()


@every
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_between_tasks(name: str, optimizer: str) -> None:
    whole = Run(name, optimizer)
    for data in STREAM[:2]:
        whole.learn(data)
    resumed = whole.again()
    for run in (whole, resumed):
        for data in STREAM[2:]:
            run.learn(data)
    agree(whole, resumed)
    assert whole.method.tasks == 4


@every
@pytest.mark.parametrize(("optimizer", "at"), [("sgd", 0), ("sgd", 5), ("adam", 5)])
def test_in_the_middle_of_a_task(name: str, optimizer: str, at: int) -> None:
    """After no step, and after five with metrics that are refreshed every two; then a task more."""
    whole = Run(name, optimizer).learn(STREAM[0])
    whole.method.begin_task(STREAM[1])
    whole.go(STREAM[1], 0, at)
    resumed = whole.again()
    resumed.method.begin_task(STREAM[1])
    assert resumed.method.step == at
    for run in (whole, resumed):
        run.go(STREAM[1], at)
        run.method.end_task()
        run.learn(STREAM[2])
        run.method.begin_task(STREAM[3])
        vector = vectors(run.blocks, 1)[0]
        run.method.before_step()
        run.steps = [run.update(vector)]  # type: ignore[list-item]
    agree(whole, resumed)
    assert torch.equal(whole.steps[0], resumed.steps[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["ogd, leading", "ong", "ong-prior", "si"])
def test_a_state_saved_as_it_was_loaded_goes_on_all_the_same(name: str) -> None:
    whole = Run(name).learn(STREAM[0])
    whole.method.begin_task(STREAM[1])
    whole.go(STREAM[1], 0, 5)
    resumed = whole.again().again()
    resumed.method.begin_task(STREAM[1])
    for run in (whole, resumed):
        run.go(STREAM[1], 5)
        run.method.end_task()
    agree(whole, resumed)


@every
def test_a_state_is_a_copy_that_training_on_does_not_change(name: str) -> None:
    run = Run(name).learn(STREAM[0])
    run.method.begin_task(STREAM[1])
    run.go(STREAM[1], 0, 3)
    state = run.method.state_dict()
    before = copy.deepcopy(state)
    run.go(STREAM[1], 3)
    run.method.end_task()
    run.learn(STREAM[2])
    assert same(state, before)


@every
def test_loading_into_a_method_that_has_trained_forgets_what_it_knew(name: str) -> None:
    whole = Run(name).learn(STREAM[0])
    fresh = whole.again()
    used = Run(name).learn(STREAM[3])
    used.method.begin_task(STREAM[2])
    used.go(STREAM[2], 0, 3)
    used.model.load_state_dict(whole.model.state_dict())
    used.optimizer.load_state_dict(saved(whole.optimizer.state_dict()))
    used.method.load_state_dict(saved(whole.method.state_dict()))
    for run in (whole, fresh, used):
        run.learn(STREAM[1])
    agree(whole, fresh)
    agree(whole, used)


@every
def test_the_state_of_another_method_is_refused(name: str) -> None:
    method = METHODS[name]()
    other = OWM() if not isinstance(method, OWM) else SI()
    with pytest.raises(
        UserError, match=f"this is the state of '{type(other).__name__}', not of {type(method).__name__}"
    ):
        method.load_state_dict(other.state_dict())


def test_a_state_can_be_loaded_before_a_model_is_there() -> None:
    whole = Run("ong-prior").learn(STREAM[0])
    method = METHODS["ong-prior"]()
    method.load_state_dict(saved(whole.method.state_dict()))
    assert same(method.state_dict(), whole.method.state_dict())
    assert method.memory_bytes == whole.method.memory_bytes > 0


def test_different_seeds_keep_different_examples_and_the_same_seed_the_same_in_all_methods() -> None:
    grams = []
    for make in (lambda: OGD(directions_per_task=5), lambda: ONGPrior(directions_per_task=5)):
        run = Learner(make(), mlp(6, 12, 3)).learn(STREAM[0])
        grams.append(run.method.memory.gram())
    other = Learner(OGD(directions_per_task=5, seed=1), mlp(6, 12, 3)).learn(STREAM[0])
    assert torch.equal(*grams)
    assert not torch.equal(grams[0], other.method.memory.gram())
