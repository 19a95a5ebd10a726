"""Elastic weight consolidation: steps along the gradient of loss + penalty, the penalty by autograd on matrices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods.matrices import Learner, backward, fisher_matrix, parts, task, tasks
from nets import fisher, flat, jacobian, mlp
from torch import Tensor, nn

from ong.curvature import EKFAC
from ong.methods import EWC


class Penalised:
    """loss + strength/2 · Σ_t (θ − θ_t)ᵀF_t(θ − θ_t), the oracle, by autograd on explicit matrices."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self.terms: list[tuple[Tensor, Tensor]] = []

    def gradient(self, weights: Tensor) -> Tensor:
        theta = weights.clone().requires_grad_()
        total = theta.sum() * 0
        for f, centre in self.terms:
            total = total + self.strength / 2 * (theta - centre) @ f @ (theta - centre)
        return torch.autograd.grad(total, theta)[0]


@pytest.mark.parametrize("penalty", ["diagonal", "ekfac"])
@pytest.mark.parametrize(("mode", "decay"), [("separate", 1.0), ("online", 1.0), ("online", 0.7)])
def test_a_step_is_along_the_gradient_of_loss_plus_penalty(penalty: Any, mode: Any, decay: float) -> None:
    options: Any = {"fisher": "exact", "examples_per_task": 24, "penalty": penalty, "mode": mode, "decay": decay}
    learner, oracle = Learner(EWC(strength=3.0, **options)), Penalised(3.0)
    *stream, last = tasks(3)
    for data in stream:
        learner.learn(data).method.begin_task(data)
        if penalty == "diagonal":
            f = torch.diag(fisher(jacobian(learner.model, data[0]), learner.model(data[0])).diagonal())
        elif mode == "separate":
            f = fisher_matrix(EKFAC.fit(learner.model, [data], fisher="exact"), learner.blocks)
        else:  # merging is the EKFAC's own business
            f = fisher_matrix(learner.method.penalties[0].ekfac, learner.blocks)
        if mode == "online" and oracle.terms:
            ((old, _),) = oracle.terms
            oracle.terms = []
            f = f if penalty == "ekfac" else decay * old + f
        oracle.terms.append((f, learner.weights))
        learner.method.leave_task()
    learner.learn(last, epochs=2)
    assert len(learner.method.penalties) == (3 if penalty == "ekfac" and mode == "separate" else 1)
    for step in learner.steps:
        expected = step.gradient + oracle.gradient(step.weights)
        torch.testing.assert_close(step.update, expected, rtol=1e-8, atol=1e-11)  # (θ − θ')/lr cancels three digits
    assert (learner.steps[-1].update - learner.steps[-1].gradient).norm() > 1e-3


@pytest.mark.parametrize("penalty", ["diagonal", "ekfac"])
def test_a_penalty_counts_once_a_step_and_the_gradient_stays_the_losss(penalty: Any) -> None:
    """However many batches are accumulated; clipping before the step sees the loss alone."""
    first, second = tasks(2)
    learner = Learner(EWC(strength=50.0, penalty=penalty)).learn(first)
    learner.method.begin_task(second)
    learner.nudge(0.3)
    before = learner.weights
    learner.model.zero_grad()
    for part in parts(second, 6):
        (nn.functional.cross_entropy(learner.model(part[0]), part[1]) / 4).backward()
    gradient = flat({n: b.gradient() for n, b in learner.blocks.items()}, learner.blocks)
    force = learner.update(gradient) - gradient
    learner.optimizer.step()
    torch.testing.assert_close(
        flat({n: b.gradient() for n, b in learner.blocks.items()}, learner.blocks), gradient, rtol=0, atol=0
    )
    torch.testing.assert_close((before - learner.weights) / 0.05, gradient + force, rtol=1e-8, atol=1e-11)
    assert force.norm() > 0.1 * gradient.norm()


def test_with_adam_the_penalised_gradient_is_what_adam_sees() -> None:
    first, second = tasks(2)
    learner = Learner(EWC(strength=3.0, fisher="exact"), optimizer=torch.optim.Adam, lr=0.01).learn(first)
    learner.method.begin_task(second)
    twin = mlp(6, 8, 3)
    twin.load_state_dict(learner.model.state_dict())
    adam = torch.optim.Adam(twin.parameters(), lr=0.01)
    adam.load_state_dict(copy.deepcopy(learner.optimizer.state_dict()))
    anchor = [p.detach().clone() for p in twin.parameters()]
    diagonal = fisher(jacobian(twin, first[0]), twin(first[0])).diagonal()
    layers = {"0": diagonal[:56].reshape(8, 7), "2": diagonal[56:].reshape(3, 9)}
    importance = [layers["0"][:, :6], layers["0"][:, 6], layers["2"][:, :8], layers["2"][:, 8]]
    for part in parts(second, 8):
        learner.step(part)
        adam.zero_grad()
        terms = [(f * (p - a) ** 2).sum() for f, p, a in zip(importance, twin.parameters(), anchor, strict=True)]
        (nn.functional.cross_entropy(twin(part[0]), part[1]) + 1.5 * torch.stack(terms).sum()).backward()
        adam.step()
    for ours, theirs in zip(learner.model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-9)


def test_a_stronger_penalty_keeps_the_weights_that_mattered_nearer() -> None:
    moves = []
    for strength in (0.0, 10.0, 100.0):
        first, second = tasks(2)
        learner = Learner(EWC(strength=strength, fisher="exact")).learn(first)
        f = fisher(jacobian(learner.model, first[0]), learner.model(first[0])).diagonal()
        learner.method.begin_task(second)
        anchor = learner.weights
        learner.train(second, epochs=5)
        moves.append(float((f * (learner.weights - anchor).square()).sum()))
    assert moves[0] > 1.1 * moves[1] > 1.1 * 1.1 * moves[2]


def test_strength_zero_trains_as_sgd_does_to_the_bit() -> None:
    learner = Learner(EWC(strength=0.0)).learn(*tasks(2))
    plain = mlp(6, 8, 3)
    sgd = torch.optim.SGD(plain.parameters(), lr=0.05)
    for data in tasks(2):
        for part in parts(data, 8):
            backward(plain, part)
            sgd.step()
    for ours, theirs in zip(learner.model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": -1.0}, "strength must not be negative"),
        ({"penalty": "diag"}, "did you mean 'diagonal'"),
        ({"mode": "on-line"}, "did you mean 'online'"),
        ({"decay": 0.5}, "needs mode='online'"),
        ({"decay": 1.5, "mode": "online"}, r"decay must be in \[0, 1\]"),
        ({"examples_per_task": 0}, "examples_per_task must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EWC(**options)


def test_a_likelihood_that_cannot_be_told_is_named_before_training() -> None:
    learner = Learner(EWC(fisher="mc"))
    x, _ = task()
    with pytest.raises(ValueError, match="pass criterion=… or likelihood="):
        learner.method.begin_task([x, torch.zeros(24, 3, dtype=torch.float64)])
