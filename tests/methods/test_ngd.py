"""The natural gradient in the current task's metric, and when that metric is taken anew."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, fisher_matrix, identity, tasks, vectors
from nets import fisher, jacobian
from torch import Tensor

from ong.curvature import EKFAC
from ong.errors import UserError
from ong.methods import NGD

DAMPING = 0.05
ALL: dict[str, Any] = {"damping": DAMPING, "fisher": "exact", "examples_per_task": 24}


@pytest.mark.parametrize("rank", [None, 2])
def test_the_update_is_lambda_times_the_inverse_of_f_plus_lambda(rank: int | None) -> None:
    (data,) = tasks(1)
    learner = Learner(NGD(rank=rank, **ALL)).begin(data)
    f = fisher_matrix(learner.method.current.ekfac, learner.blocks)
    for vector in vectors(learner.blocks):
        expected = DAMPING * torch.linalg.solve(f + DAMPING * identity(f), vector)
        torch.testing.assert_close(learner.update(vector), expected, **EXACT)


@pytest.mark.parametrize("rank", [None, 2])
def test_its_fisher_is_that_of_the_present_weights_up_to_the_eigenbasis(rank: int | None) -> None:
    """The trace of an EKFAC is exact, whatever is kept of its basis; of one layer for one example all of it is."""
    (data,) = tasks(1)
    learner = Learner(NGD(rank=rank, **ALL)).begin(data)
    f = fisher_matrix(learner.method.current.ekfac, learner.blocks)
    exact = fisher(jacobian(learner.model, data[0]), learner.model(data[0]))
    torch.testing.assert_close(f.trace(), exact.trace(), **EXACT)
    one = [part[:1] for part in data]
    alone = Learner(NGD(damping=DAMPING, fisher="empirical", rank=rank)).begin(one)
    f = fisher_matrix(alone.method.current.ekfac, alone.blocks)
    residual = torch.softmax(alone.model(one[0]).detach(), 1)[0] - torch.eye(3, dtype=torch.float64)[one[1][0]]
    gradient = residual @ jacobian(alone.model, one[0])[0]
    layers = torch.block_diag(*[torch.outer(part, part) for part in gradient.split([56, 27])])
    torch.testing.assert_close(f, layers, **EXACT)


class Watched(NGD):
    """Notes the metric's Fisher and the model before each step."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.ekfacs: list[EKFAC] = []
        self.models: list[Any] = []

    def _before_step(self) -> None:
        super()._before_step()
        self.ekfacs.append(self.current.ekfac)
        self.models.append(copy.deepcopy(self.model))

    def values(self, name: str) -> list[Tensor]:
        return [ekfac.blocks[name].eigenvalues for ekfac in self.ekfacs]


def test_the_fisher_is_taken_anew_at_the_start_of_a_task_and_every_few_steps() -> None:
    method = Watched(damping=DAMPING, fisher="exact", examples_per_task=24, refresh_every=2)
    Learner(method).learn(*tasks(2))  # three steps a task
    assert [method.ekfacs[k] is method.ekfacs[k + 1] for k in range(5)] == [True, False, False, True, False]
    for name in ("0", "2"):
        assert not torch.equal(method.values(name)[1], method.values(name)[2])


def test_a_refresh_is_the_ekfac_of_that_moments_weights() -> None:
    (data,) = tasks(1)
    method = Watched(refresh_every=2, **ALL)
    learner = Learner(method).learn(data)
    for step in (0, 2):
        anew = EKFAC.fit(method.models[step], [data], fisher="exact")
        expected, found = (
            fisher_matrix(ekfac, learner.blocks or method.blocks) for ekfac in (anew, method.ekfacs[step])
        )
        torch.testing.assert_close(found, expected, **EXACT)


def test_a_few_examples_are_drawn_anew_for_each_refresh() -> None:
    method = Watched(damping=DAMPING, fisher="exact", examples_per_task=3, refresh_every=1)
    (data,) = tasks(1)
    Learner(method, lr=0.0).learn(data)  # the weights stay
    traces = [ekfac.trace() for ekfac in method.ekfacs]
    assert len(set(traces)) == 3


def test_nothing_of_the_past_changes_a_step() -> None:
    first, second = tasks(2)
    learner = Learner(NGD(**ALL)).learn(first).begin(second)
    fresh = Learner(NGD(**ALL), copy.deepcopy(learner.model)).begin(second)
    for vector in vectors(learner.blocks):
        torch.testing.assert_close(learner.update(vector), fresh.update(vector), **EXACT)
    assert learner.method.memory_bytes == 0


def test_a_refresh_that_failed_leaves_the_task_to_be_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (data,) = tasks(1)
    learner = Learner(NGD(**ALL))
    with monkeypatch.context() as patch:
        patch.setattr(EKFAC, "add", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            learner.learn(data)
    fresh = Learner(NGD(**ALL)).learn(data)
    learner.learn(data)
    for one, other in zip(learner.model.parameters(), fresh.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, **EXACT)  # the examples are summed in another order


def test_inputs_that_are_not_finite_are_an_error_before_training() -> None:
    (data,) = tasks(1)
    data[0][0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        Learner(NGD(**ALL)).learn(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be positive"),
        ({"fisher": "rademaker"}, "did you mean 'rademacher'"),
        ({"examples_per_task": 0}, "examples_per_task must be at least 1"),
        ({"samples": 0}, "samples must be at least 1"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NGD(**options)
