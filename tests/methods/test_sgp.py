"""Scaled gradient projection against the paper's formulas, in NumPy on singular vectors of the inputs themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.matrices import EXACT, Learner, cosine, dense, leak, saved, task, tasks, vectors
from nets import mlp
from torch import Tensor

from ong.errors import UserError
from ong.methods import GPM, SGP
from ong.methods.sgp import importances

Array = np.ndarray[Any, np.dtype[np.float64]]


class Paper:
    """Eqs. 1 to 6 of arXiv 2302.01386 for one layer, on representation matrices R = [a_1 … a_n]/√n.

    The 1/√n makes RRᵀ the covariance; importances are the same with any scale.
    """

    def __init__(self, width: int, threshold: float, scale: float) -> None:
        self.threshold, self.scale = threshold, scale
        self.basis: Array = np.zeros((width, 0))
        self.importance: Array = np.zeros(0)

    def add(self, r: Array) -> None:
        residual = r - self.basis @ (self.basis.T @ r)
        u, s, _ = np.linalg.svd(residual, full_matrices=False)
        total = (r**2).sum()
        held, k = total - (s**2).sum(), 0
        while held < self.threshold * total:
            held, k = held + s[k] ** 2, k + 1
        old = np.linalg.norm(r.T @ self.basis, axis=0)  # σ_j = √(n_jᵀ R Rᵀ n_j)
        sigma = np.concatenate([old, s[:k]])
        found = (self.scale + 1) * sigma / (self.scale * sigma + sigma.max())
        before = np.concatenate([self.importance, np.zeros(k)])
        self.basis = np.concatenate([self.basis, u[:, :k]], 1)
        self.importance = np.minimum(before + found, 1)

    @property
    def projection(self) -> Array:
        """N Λ Nᵀ."""
        return (self.basis * self.importance) @ self.basis.T


def representation(inputs: Tensor) -> Array:
    ones = torch.ones(len(inputs), 1, dtype=torch.float64)
    return (torch.cat([inputs, ones], 1).T / len(inputs) ** 0.5).detach().numpy()


def learned(scale: float, threshold: float = 0.9, count: int = 3) -> tuple[Learner, dict[str, Paper]]:
    """A learner in the task after ``count`` others, and what the paper makes of these."""
    learner = Learner(SGP(scale=scale, threshold=threshold), mlp(6, 8, 3))
    theirs = {"0": Paper(7, threshold, scale), "2": Paper(9, threshold, scale)}
    *stream, last = tasks(count + 1)
    for data in stream:
        learner.learn(data)
        hidden = torch.tanh(learner.model[0](data[0]))
        theirs["0"].add(representation(data[0]))
        theirs["2"].add(representation(hidden))
    return learner.begin(last), theirs


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_bases_and_importances_are_the_papers_task_after_task(scale: float, count: int) -> None:
    learner, theirs = learned(scale, threshold=0.8, count=count)
    for name, paper in theirs.items():
        ours, importance = learner.method.bases[name], learner.method.importance[name]
        assert ours.shape == paper.basis.shape
        np.testing.assert_allclose(importance.numpy(), paper.importance, rtol=1e-8, atol=1e-10)
        # signs of singular vectors are free, the operator is not
        np.testing.assert_allclose(((ours * importance) @ ours.T).numpy(), paper.projection, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [0.0, 1.0, 10.0])
def test_the_update_takes_each_basis_vector_out_by_its_importance(scale: float) -> None:
    learner, theirs = learned(scale)
    p = {name: torch.from_numpy(paper.projection) for name, paper in theirs.items()}
    for vector in vectors(learner.blocks):
        g = {"0": vector[:56].reshape(8, 7), "2": vector[56:].reshape(3, 9)}
        expected = torch.cat([(part - part @ p[name]).flatten() for name, part in g.items()])
        torch.testing.assert_close(learner.update(vector), expected, rtol=1e-8, atol=1e-9)


def test_an_old_vector_gains_its_share_of_a_later_tasks_inputs_up_to_one() -> None:
    """One layer, two hand-made tasks: inputs along e_1 (and a little e_2), then along e_2 only."""
    model = torch.nn.Linear(3, 2, bias=False).double()
    method = SGP(threshold=1.0, scale=1.0)
    learner = Learner(method, model)
    x = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))[:2].repeat(2, 1)
    y = torch.tensor([0, 1, 0, 1])
    learner.learn([x, y])  # σ = (√2, √½): λ = 1 and (1+1)·½/(½ + 1) = ⅔
    basis, found = method.bases[""], method.importance[""]
    torch.testing.assert_close(basis.abs(), torch.eye(3, dtype=torch.float64)[:, :2], rtol=0, atol=1e-12)
    torch.testing.assert_close(found, torch.tensor([1, 2 / 3], dtype=torch.float64), **EXACT)
    again = x.clone()
    again[:, 0] = 0
    again[0, 2] = 0.25
    learner.learn([again, y])  # n_1 gets 0, n_2 gets 1 and is cut at 1, e_3 is new
    sigma = torch.tensor([0.0, 0.5**0.5, 0.125], dtype=torch.float64)
    expected = 2 * sigma[2] / (sigma[2] + sigma[1])
    torch.testing.assert_close(method.importance[""], torch.stack([sigma[0] + 1, sigma[0] + 1, expected]), **EXACT)


def test_a_large_alpha_is_gpm() -> None:
    gpm = Learner(GPM(threshold=0.9)).learn(*tasks(2)).begin(task(seed=5))
    gaps = []
    for scale in (1e2, 1e4, 1e6):
        sgp = Learner(SGP(threshold=0.9, scale=scale))
        sgp.model.load_state_dict(gpm.model.state_dict())
        sgp.method.bases = gpm.method.bases
        sgp.method.importance = {
            name: importances(torch.linspace(1, 0.1, basis.shape[1], dtype=torch.float64), scale)
            for name, basis in gpm.method.bases.items()
        }
        sgp.begin(task(seed=5))
        vector = vectors(sgp.blocks, 1)[0]
        gaps.append(float((sgp.update(vector) - gpm.update(vector)).norm()))
    assert gaps[1] == pytest.approx(gaps[0] / 100, rel=0.1)  # 1 − λ = (max σ − σ)/(ασ + max σ)
    assert gaps[2] == pytest.approx(gaps[1] / 100, rel=0.1)


def test_alpha_zero_scales_by_the_share_of_the_largest_singular_value() -> None:
    sigma = torch.tensor([4.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(importances(sigma, 0.0), sigma / 4, rtol=1e-12, atol=0)
    assert not importances(torch.zeros(3), 1.0).any()  # and no division by zero


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(0, 100))
def test_no_gradient_makes_a_step_ascend_or_longer_than_itself(seed: int, scale: float) -> None:
    """0 ⪯ P ⪯ I: all of its eigenvalues, as a matrix over the net."""
    learner = Learner(SGP(scale=scale, seed=seed), mlp(6, 5, 3, seed=seed)).learn(*tasks(2, seed=seed, examples=9))
    learner.begin(task(seed=seed))
    p = dense(learner.method.project, learner.blocks)
    torch.testing.assert_close(p, p.T, rtol=0, atol=1e-12)
    values = torch.linalg.eigvalsh(p)
    assert values[0] > -1e-12
    assert values[-1] < 1 + 1e-12


def test_old_outputs_move_at_first_order_the_less_the_larger_alpha_and_steps_descend() -> None:
    first, second = tasks(2, examples=6)
    leaks = []
    for scale in (0.0, 10.0, 1000.0):
        learner = Learner(SGP(threshold=1.0, scale=scale), mlp(6, 30, 3)).learn(first)
        gradients = learner.gradients(first)
        learner.learn(second)
        leaks.append(max(leak(gradients, step.update) for step in learner.steps))
        assert min(cosine(step.gradient, step.update) for step in learner.steps) > 0
    assert leaks[0] > leaks[1] > leaks[2] > 1e-6


def test_bases_and_importances_are_the_memory_and_come_back_from_a_file() -> None:
    first, second, third = tasks(3)
    learner = Learner(SGP()).learn(first)
    sizes = [basis.shape for basis in learner.method.bases.values()]
    assert learner.method.memory_bytes == 8 * sum((rows + 1) * count for rows, count in sizes)
    other = Learner(SGP())
    other.model.load_state_dict(learner.model.state_dict())
    other.method.load_state_dict(saved(learner.method.state_dict()))
    for one in (learner, other):
        one.learn(second).begin(third)
    assert torch.equal(learner.weights, other.weights)
    for name, importance in learner.method.importance.items():
        assert torch.equal(importance, other.method.importance[name])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": -1.0}, "scale must be at least 0, got -1.0"), ({"threshold": 0.0}, r"numbers in \(0, 1\]")],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SGP(**options)
