"""Steepest descent in the finished tasks' metric under Gᵀv = 0, against the constrained problem in matrices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, columns, fisher_matrix, identity, leak, tasks, vectors
from nets import fisher, flat, jacobian
from torch import Tensor

from ong.curvature import EKFAC
from ong.methods import NCL, OGD, ONGPrior

DAMPING = 0.05
OPTIONS: dict[str, Any] = {"damping": DAMPING, "fisher": "exact", "examples_per_task": 24, "directions_per_task": 5}


def matrices(learner: Learner) -> tuple[Tensor, Tensor, Tensor]:
    """F, M and G."""
    f = fisher_matrix(learner.method.past.ekfac, learner.blocks)
    return f, identity(f) + f / DAMPING, columns(learner.method.memory, learner.blocks)


@pytest.mark.parametrize("rank", [None, 2])
def test_the_update_is_the_formula_in_matrices(rank: int | None) -> None:
    first, second, third = tasks(3)
    learner = Learner(ONGPrior(rank=rank, **OPTIONS)).learn(first, second).begin(third)
    _, m, g = matrices(learner)
    inverse = torch.linalg.inv(m)
    for vector in vectors(learner.blocks):
        coefficients = torch.linalg.solve(g.T @ inverse @ g, g.T @ inverse @ vector)
        torch.testing.assert_close(learner.update(vector), inverse @ (vector - g @ coefficients), **EXACT)


def test_the_update_solves_the_constrained_problem() -> None:
    """argmin −gᵀv + ½vᵀMv subject to Gᵀv = 0, by its optimality conditions as one linear system."""
    first, second, third = tasks(3)
    learner = Learner(ONGPrior(**OPTIONS)).learn(first, second).begin(third)
    _, m, g = matrices(learner)
    g = g / g.norm(dim=0)
    system = torch.cat([torch.cat([m, g], 1), torch.cat([g.T, m.new_zeros(10, 10)], 1)])
    for vector in vectors(learner.blocks):
        expected = torch.linalg.solve(system, torch.cat([vector, vector.new_zeros(10)]))[: len(m)]
        torch.testing.assert_close(learner.update(vector), expected, **EXACT)
        v = learner.update(vector)
        torch.testing.assert_close(vector @ v, v @ m @ v, **EXACT)


def test_its_fisher_is_the_sum_of_the_finished_tasks() -> None:
    """Traces are exact through any number of merges; with one task it is that task's EKFAC."""
    stream = tasks(3)
    learner = Learner(ONGPrior(**OPTIONS))
    total = torch.zeros((), dtype=torch.float64)
    for data in stream:
        learner.learn(data)
        total = total + fisher(jacobian(learner.model, data[0]), learner.model(data[0])).trace()
        if learner.method.tasks == 1:
            alone = EKFAC.fit(learner.model, [data], fisher="exact")
            learner.begin(data)
            found, expected = (fisher_matrix(e, learner.blocks) for e in (learner.method.past.ekfac, alone))
            torch.testing.assert_close(found, expected, **EXACT)
            learner.method.leave_task()
    assert learner.method.past.ekfac.trace() == pytest.approx(float(total), rel=1e-10)


def test_with_a_large_damping_it_is_ogd_and_without_directions_it_is_ncl_without_pull() -> None:
    first, second = tasks(2)
    stiff = Learner(ONGPrior(**OPTIONS | {"damping": 1e12})).learn(first).begin(second)
    ogd = Learner(OGD(directions_per_task=5)).learn(first).begin(second)
    ncl = Learner(NCL(pull=0.0, damping=DAMPING, fisher="exact", examples_per_task=24)).learn(first).begin(second)
    prior = Learner(ONGPrior(**OPTIONS)).learn(first).begin(second)
    for vector in vectors(stiff.blocks):
        torch.testing.assert_close(stiff.update(vector), ogd.update(vector), **EXACT)
        _, _, g = matrices(prior)
        expected = ncl.update(vector)  # of a gradient whose natural one has no part along G
        free = vector - g @ torch.linalg.solve(g.T @ solve(ncl, g), g.T @ expected)
        torch.testing.assert_close(prior.update(free), ncl.update(free), **EXACT)


def solve(ncl: Learner, g: Tensor) -> Tensor:
    return torch.stack([ncl.update(column) for column in g.T], 1)


@pytest.mark.parametrize("pull", [0.3, 2.0])
def test_the_pull_adds_gamma_f_times_the_way_from_the_last_tasks_weights(pull: float) -> None:
    first, second, third = tasks(3)
    learner = Learner(ONGPrior(pull=pull, **OPTIONS)).learn(first, second).begin(third)
    f, m, g = matrices(learner)
    inverse, anchor = torch.linalg.inv(m), learner.weights
    vector = vectors(learner.blocks, 1)[0]
    p = inverse - inverse @ g @ torch.linalg.solve(g.T @ inverse @ g, g.T @ inverse)
    torch.testing.assert_close(learner.update(vector), p @ vector, **EXACT)  # θ = μ: nothing to pull
    learner.nudge(0.5)
    force = vector + pull * f @ (learner.weights - anchor)
    torch.testing.assert_close(learner.update(vector), p @ force, **EXACT)
    assert (learner.update(vector) - p @ vector).norm() > 1e-3 * vector.norm()
    assert leak(g, learner.update(vector)) < 1e-9


def test_a_step_with_a_pull_descends_the_penalised_loss() -> None:
    first, second = tasks(2)
    learner = Learner(ONGPrior(pull=1.0, **OPTIONS)).learn(first)
    learner.method.begin_task(second)
    f, anchor = fisher_matrix(learner.method.past.ekfac, learner.blocks), learner.weights
    learner.steps = []
    learner.train(second, epochs=3)
    for step in learner.steps:
        assert (step.gradient + f @ (step.weights - anchor)) @ step.update >= 0


def test_parameters_that_are_no_layers_are_part_of_the_metric_and_of_the_directions() -> None:
    """A gain that a module holds itself: dense in G, a diagonal in F."""

    class Gained(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = torch.nn.Linear(6, 5), torch.nn.Linear(5, 3)
            self.gain = torch.nn.Parameter(torch.ones(5))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.gain * self.first(x)))

    torch.manual_seed(0)
    first, second = tasks(2)
    learner = Learner(ONGPrior(**OPTIONS), Gained().double()).learn(first).begin(second)
    f, m, g = matrices(learner)
    assert learner.blocks["gain"].module is None
    place = slice(0, 5)
    assert next(iter(learner.blocks)) == "gain"
    assert g[place].abs().min() > 0
    torch.testing.assert_close(f[place, place], torch.diag(f.diagonal()[place]), rtol=0, atol=0)
    inverse = torch.linalg.inv(m)
    vector = vectors(learner.blocks, 1)[0]
    expected = inverse @ (vector - g @ torch.linalg.solve(g.T @ inverse @ g, g.T @ inverse @ vector))
    torch.testing.assert_close(learner.update(vector), expected, **EXACT)


def test_blocks_that_do_not_move_restrict_the_constraint_to_those_that_do() -> None:
    first, second = tasks(2)
    learner = Learner(ONGPrior(**OPTIONS)).learn(first).begin(second)
    _, m, g = matrices(learner)
    part = slice(0, 56)  # the first layer
    inverse, g = torch.linalg.inv(m[part, part]), g[part]
    vector = vectors(learner.blocks, 1)[0][part]
    update = learner.method.update({"0": vector.reshape(8, 7)})
    assert list(update) == ["0"]
    expected = inverse @ (vector - g @ torch.linalg.solve(g.T @ inverse @ g, g.T @ inverse @ vector))
    torch.testing.assert_close(flat(update, {"0": learner.blocks["0"]}), expected, **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"damping": -1.0}, "damping must be positive"), ({"pull": -0.1}, "pull must be at least 0, got -0.1")],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ONGPrior(**options)
