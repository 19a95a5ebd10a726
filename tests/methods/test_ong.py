"""ONG as published: the natural gradient, off the natural gradients of old tasks in the metrics they had."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, Task, columns, fisher_matrix, identity, leak, off, places, tasks, vectors
from torch import Tensor

from ong.curvature import EKFAC
from ong.methods import ONG

DAMPING = 0.05
OPTIONS: dict[str, Any] = {"damping": DAMPING, "fisher": "exact", "examples_per_task": 24, "directions_per_task": 5}


def learned(rank: int | None, *stream: Task) -> tuple[Learner, Tensor, list[Tensor]]:
    """A learner, all natural gradients λ(F_k+λ)⁻¹∇h_y of its tasks, and these tasks' gradients, in columns."""
    learner = Learner(ONG(rank=rank, **OPTIONS))
    natural, plain = [], []
    for data in stream:
        learner.learn(data).begin(data)
        f = fisher_matrix(EKFAC.fit(learner.model, [data], fisher="exact", rank=rank), learner.blocks)
        learner.method.leave_task()
        gradients = learner.gradients(data)
        natural.append(DAMPING * torch.linalg.solve(f + DAMPING * identity(f), gradients))
        plain.append(gradients)
    return learner, torch.cat(natural, 1), plain


@pytest.mark.parametrize("rank", [None, 2])
def test_what_is_stored_are_natural_gradients_in_the_metric_of_their_task(rank: int | None) -> None:
    first, second, third = tasks(3)
    learner, natural, _ = learned(rank, first, second)
    learner.begin(third)
    q = columns(learner.method.memory, learner.blocks)
    assert q.shape[1] == 10
    assert len(set(places(q, natural))) == 10


@pytest.mark.parametrize("rank", [None, 2])
def test_the_update_projects_the_natural_gradient_off_them(rank: int | None) -> None:
    first, second, third = tasks(3)
    learner, _, _ = learned(rank, first, second)
    learner.begin(third)
    f, q = fisher_matrix(learner.method.current.ekfac, learner.blocks), columns(learner.method.memory, learner.blocks)
    for vector in vectors(learner.blocks):
        expected = off(q) @ (DAMPING * torch.linalg.solve(f + DAMPING * identity(f), vector))
        torch.testing.assert_close(learner.update(vector), expected, **EXACT)


def test_old_outputs_leak_at_first_order_where_the_natural_gradients_do_not() -> None:
    first, second = tasks(2)
    learner, _, (gradients,) = learned(None, first)
    learner.begin(second)
    q = columns(learner.method.memory, learner.blocks)
    v = learner.update(vectors(learner.blocks, 1)[0])
    assert leak(q, v) < 1e-9
    assert leak(gradients[:, :5], v) > 0.01
