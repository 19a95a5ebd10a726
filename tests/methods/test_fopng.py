"""FOPNG against its algebra written out in matrices: the published projector and the one its constraint asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from methods.matrices import Learner, columns, cosine, fisher_matrix, identity, leak, tasks, vectors
from nets import mlp
from torch import Tensor

from ong.methods import FOPNG

DAMPING = 0.05
SQUARED = {"rtol": 1e-6, "atol": 1e-8}
"""The Gram HᵀF_c⁻¹H squares the condition of H = F_pG."""


@dataclass
class Third:
    """The third task of a run, in matrices: (F_c+λ)⁻¹, F_p and G."""

    learner: Learner
    inverse: Tensor
    past: Tensor
    stored: Tensor

    @property
    def images(self) -> Tensor:
        return self.past @ self.stored

    def projector(self, corrected: bool, scale: float = 1.0, gram_damping: float = 0.0) -> Tensor:
        """P, with F_c + λ multiplied by a number."""
        h, inverse = self.images, self.inverse / scale
        gram = h.T @ inverse @ h
        core = torch.linalg.inv(gram + gram_damping * identity(gram))
        return identity(h) - h @ core @ h.T @ (inverse if corrected else identity(h))


def third(seed: int = 0, **options: Any) -> Third:
    method = FOPNG(**{"damping": DAMPING, "directions_per_task": 3, "seed": seed} | options)
    *stream, last = tasks(3, width=5, seed=seed)
    learner = Learner(method, mlp(5, 6, 3, seed=seed)).learn(*stream).begin(last)
    blocks = learner.blocks
    past, current = fisher_matrix(method.ekfac, blocks), fisher_matrix(method.current.ekfac, blocks)
    inverse = torch.linalg.inv(current + DAMPING * identity(current))
    return Third(learner, inverse, past, columns(method.memory, blocks))


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("trust_region", [False, True])
@pytest.mark.parametrize("gram_damping", [0.0, 0.01])
def test_the_update_is_the_formula_in_matrices(
    corrected: bool, trust_region: bool, gram_damping: float, rank: int | None
) -> None:
    found = third(corrected=corrected, trust_region=trust_region, gram_damping=gram_damping, rank=rank)
    for g in vectors(found.learner.blocks):
        projected = found.projector(corrected, gram_damping=gram_damping) @ g
        expected = found.inverse @ projected
        expected = expected / (projected @ expected).sqrt() if trust_region else DAMPING * expected
        torch.testing.assert_close(found.learner.update(g), expected, **SQUARED)


@pytest.mark.parametrize("seed", range(5))
def test_the_corrected_step_solves_the_constrained_problem(seed: int) -> None:
    """argmin −gᵀv + ½ vᵀF_c v s.t. GᵀF_p v = 0: feasible, and the gradient −g + F_c v lies in span F_pG."""
    found = third(seed, corrected=True)
    h = found.images / found.images.norm(dim=0)
    for g in vectors(found.learner.blocks):
        v = found.learner.update(g) / DAMPING
        assert (h.T @ v).norm() < 1e-6 * v.norm()
        stationarity = torch.linalg.solve(found.inverse, v) - g
        inside = h @ torch.linalg.lstsq(h, stationarity[:, None]).solution[:, 0]
        assert (stationarity - inside).norm() < 1e-6 * g.norm()
        assert g @ v >= 0


@pytest.mark.parametrize("seed", range(5))
def test_only_the_corrected_projector_is_idempotent_and_blind_to_the_scale_of_the_fisher(seed: int) -> None:
    found = third(seed)
    published, corrected = found.projector(False), found.projector(True)
    torch.testing.assert_close(corrected @ corrected, corrected, **SQUARED)
    torch.testing.assert_close(found.projector(True, scale=2.0), corrected, **SQUARED)
    assert (published @ published - published).norm() > 0.1
    assert (found.projector(False, scale=2.0) - published).norm() > 0.1


def test_the_published_step_breaks_its_own_constraint() -> None:
    found = third()
    assert max(leak(found.images, found.learner.update(g)) for g in vectors(found.learner.blocks)) > 0.05


def test_the_published_step_can_ascend() -> None:
    """F_c = 4, F_p = 1, G = g = 1 in one dimension: P = 1 − 4 and v = F_c⁻¹Pg = −¾ against g = 1."""
    g = f_p = stored = 1.0
    f_c = 4.0
    h = f_p * stored
    projected = g - h * (h * h / f_c) ** -1 * h * g
    assert g * projected / f_c == -0.75


@pytest.mark.parametrize("corrected", [False, True])
def test_both_move_old_outputs_at_first_order(corrected: bool) -> None:
    found = third(corrected=corrected)
    assert max(leak(found.stored, found.learner.update(g)) for g in vectors(found.learner.blocks)) > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_every_corrected_step_descends_through_refreshes(seed: int) -> None:
    method = FOPNG(corrected=True, damping=DAMPING, directions_per_task=3, refresh_every=2, seed=seed)
    learner = Learner(method, seed=seed).learn(*tasks(3, seed=seed), epochs=2)
    assert all(cosine(step.gradient, step.update) >= -1e-9 for step in learner.steps)


def test_a_refresh_takes_the_gram_anew() -> None:
    method = FOPNG(corrected=True, damping=DAMPING, directions_per_task=3, refresh_every=2, fisher="exact")
    *stream, last = tasks(3)
    learner = Learner(method).learn(*stream).begin(last)
    (g,) = vectors(learner.blocks, 1)
    first = learner.update(g)
    learner.nudge(0.5)
    torch.testing.assert_close(learner.update(g), first, rtol=0, atol=0)
    for _ in range(2):
        method.before_step()
    f, h = fisher_matrix(method.current.ekfac, learner.blocks), columns(method.memory, learner.blocks)
    h = fisher_matrix(method.ekfac, learner.blocks) @ h
    inverse = torch.linalg.inv(f + DAMPING * identity(f))
    expected = DAMPING * inverse @ (g - h @ torch.linalg.solve(h.T @ inverse @ h, h.T @ inverse @ g))
    torch.testing.assert_close(learner.update(g), expected, **SQUARED)
    assert (expected - first).norm() > 1e-3 * first.norm()


def test_the_constraint_holds_over_the_layers_that_move() -> None:
    found = third(corrected=True)
    learner, part = found.learner, slice(0, 36)
    (g,) = vectors(learner.blocks, 1)
    update = learner.method.update({"0": g[part].reshape(6, 6)})
    assert list(update) == ["0"]
    h = found.images[part]
    v = update["0"].flatten()
    assert leak(h, v) < 1e-6
    inverse = found.inverse[part, part]
    expected = DAMPING * inverse @ (g[part] - h @ torch.linalg.solve(h.T @ inverse @ h, h.T @ inverse @ g[part]))
    torch.testing.assert_close(v, expected, **SQUARED)


def test_rank_and_condition_are_told_of_the_gram_that_is_inverted() -> None:
    method = FOPNG(damping=DAMPING, directions_per_task=3)
    first, second = tasks(2)
    learner = Learner(method).learn(first)
    assert "rank" not in method.statistics()
    learner.begin(second)
    (g,) = vectors(learner.blocks, 1)
    learner.update(g)
    h = fisher_matrix(method.ekfac, learner.blocks) @ columns(method.memory, learner.blocks)
    f = fisher_matrix(method.current.ekfac, learner.blocks)
    gram = h.T @ torch.linalg.inv(f + DAMPING * identity(f)) @ h
    unit = gram / (gram.diagonal()[:, None] * gram.diagonal()).sqrt()
    told = method.statistics()
    assert told["rank"] == 3
    assert told["condition"] == pytest.approx(float(torch.linalg.cond(unit)), rel=1e-6)


def test_the_first_task_is_trained_plainly() -> None:
    (data,) = tasks(1)
    for step in Learner(FOPNG()).learn(data).steps:
        torch.testing.assert_close(step.update, step.gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be positive"),
        ({"gram_damping": -1.0}, "gram_damping must be at least 0"),
        ({"directions": "gt"}, "did you mean 'gtl'"),
        ({"fisher": "diag"}, "unknown Fisher type"),
        ({"directions_per_task": 0}, "directions_per_task must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FOPNG(**options)
