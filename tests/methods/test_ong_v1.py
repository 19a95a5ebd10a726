"""ONG as first published: the natural gradient, then off the stored gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, columns, fisher_matrix, identity, leak, off, tasks, vectors

from ong.methods import NGD, ONGv1

DAMPING = 0.05
OPTIONS: dict[str, Any] = {"damping": DAMPING, "fisher": "exact", "examples_per_task": 24, "refresh_every": 2}


@pytest.mark.parametrize("rank", [None, 2])
def test_the_update_projects_the_natural_gradient_off_the_stored_gradients(rank: int | None) -> None:
    first, second, third = tasks(3)
    learner = Learner(ONGv1(directions_per_task=5, rank=rank, **OPTIONS)).learn(first, second).begin(third)
    f, g = fisher_matrix(learner.method.current.ekfac, learner.blocks), columns(learner.method.memory, learner.blocks)
    assert g.shape[1] == 10
    for vector in vectors(learner.blocks):
        natural = DAMPING * torch.linalg.solve(f + DAMPING * identity(f), vector)
        torch.testing.assert_close(learner.update(vector), off(g) @ natural, **EXACT)


def test_the_first_task_is_trained_by_the_natural_gradient() -> None:
    (data,) = tasks(1)
    one, other = (Learner(method).learn(data) for method in (ONGv1(**OPTIONS), NGD(**OPTIONS)))
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_steps_stay_off_the_directions_through_a_refresh() -> None:
    first, second = tasks(2)
    learner = Learner(ONGv1(directions_per_task=5, **OPTIONS)).learn(first)
    learner.method.begin_task(second)
    g = columns(learner.method.memory, learner.blocks)
    learner.steps = []
    learner.train(second, epochs=2)  # six steps, three metrics
    assert all(leak(g, step.update) < 1e-6 for step in learner.steps)


def test_only_the_directions_are_kept_from_task_to_task() -> None:
    learner = Learner(ONGv1(directions_per_task=5, **OPTIONS)).learn(*tasks(2))
    assert learner.method.memory.bytes == 10 * 8 * (7 + 8 + 9 + 3)
    assert learner.method.memory_bytes <= learner.method.memory.bytes  # packed
