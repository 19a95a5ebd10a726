"""Elastic weight consolidation: per-example Fishers, and steps along the gradient of loss + penalty."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, backward, fisher_matrix, parts, task, tasks
from nets import fisher, flat, jacobian, mlp, seeded, unflat
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ong.curvature import EKFAC, DiagonalPenalty, EKFACPenalty, FisherType, diagonal_fisher, find_blocks
from ong.methods import EWC


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_net() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 3))
    return seeded(model, torch.Generator().manual_seed(0))


NETS: list[Any] = [pytest.param(mlp(4, 5, 3), (9, 4), id="mlp"), pytest.param(conv_net(), (9, 1, 5, 5), id="conv")]


@pytest.mark.parametrize(("model", "shape"), NETS)
def test_the_exact_diagonal_is_that_of_the_fisher(model: nn.Module, shape: tuple[int, ...]) -> None:
    x, blocks = random(*shape), find_blocks(model)
    y = torch.zeros(len(x), dtype=torch.long)
    found = flat(diagonal_fisher(model, [(x[:4], y[:4]), (x[4:], y[4:])], fisher="exact"), blocks)
    expected = fisher(jacobian(model, x, blocks), model(x)).diagonal()
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("model", "shape"), NETS)
def test_the_empirical_diagonal_squares_gradients_example_by_example(model: nn.Module, shape: tuple[int, ...]) -> None:
    """Against torch.func; the square of the batch's mean gradient, as common code has it, is far from it."""
    x, y = random(*shape), torch.arange(shape[0]) % 3
    model.eval()
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    found = diagonal_fisher(model, [(x, y)], fisher="empirical")
    for name, block in find_blocks(model).items():
        names = [next(n for n, p in model.named_parameters() if p is q) for q in block.parameters]
        columns = torch.cat([each[n].reshape(len(x), block.rows, -1) for n in names], 2)
        torch.testing.assert_close(found[name], columns.square().mean(0), rtol=1e-9, atol=1e-12)
        assert columns.mean(0).square().sum() < 0.5 * found[name].sum()


@pytest.mark.parametrize("kind", ["mc", "rademacher"])
def test_random_diagonals_approach_the_exact_one(kind: FisherType) -> None:
    model, x = mlp(4, 5, 3), random(40, 4)
    exact = flat(diagonal_fisher(model, [(x,)], fisher="exact"), find_blocks(model))
    drawn = flat(diagonal_fisher(model, [(x,)], fisher=kind, samples=400), find_blocks(model))
    assert (drawn - exact).norm() < 0.05 * exact.norm()  # 16,000 draws


def three_parabolas() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]], Tensor]:
    """Fishers, some entries zero, anchors, and weights to measure at."""
    fishers = [{"a": random(2, 3, seed=s).square() * (random(2, 3, seed=s + 9) > 0)} for s in range(3)]
    return fishers, [{"a": random(2, 3, seed=s + 20)} for s in range(3)], random(2, 3, seed=40).requires_grad_()


def test_one_parabola_has_the_gradient_of_the_sum_over_tasks() -> None:
    fishers, anchors, theta = three_parabolas()
    penalty = DiagonalPenalty()
    for diagonal, anchor in zip(fishers, anchors, strict=True):
        penalty.add(diagonal, anchor)
    terms = [(0.5 * f["a"] * (theta - a["a"]) ** 2).sum() for f, a in zip(fishers, anchors, strict=True)]
    (expected,) = torch.autograd.grad(torch.stack(terms).sum(), theta)
    torch.testing.assert_close(penalty.gradient({"a": theta.detach()})["a"], expected, rtol=1e-12, atol=1e-14)
    assert penalty.bytes == 2 * 6 * 8  # however many tasks


def test_the_online_parabola_decays_and_moves_to_the_newest_weights() -> None:
    fishers, anchors, theta = three_parabolas()
    penalty = DiagonalPenalty()
    for diagonal, anchor in zip(fishers, anchors, strict=True):
        penalty.replace(diagonal, anchor, 0.5)
    total = 0.25 * fishers[0]["a"] + 0.5 * fishers[1]["a"] + fishers[2]["a"]
    (expected,) = torch.autograd.grad((0.5 * total * (theta - anchors[2]["a"]) ** 2).sum(), theta)
    torch.testing.assert_close(penalty.gradient({"a": theta.detach()})["a"], expected, rtol=1e-12, atol=1e-14)


def test_the_ekfac_penalty_is_exact_for_one_example() -> None:
    model, x = mlp(4, 5, 3), random(1, 4)
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [(x, torch.tensor([2]))], fisher="empirical")
    centre = {n: b.values() for n, b in blocks.items()}
    moved = unflat(flat(centre, blocks) + random(sum(p.numel() for p in model.parameters())), blocks)
    residual = torch.softmax(model(x).detach(), 1)[0] - nn.functional.one_hot(torch.tensor(2), 3)
    gradient = unflat(residual @ jacobian(model, x, blocks)[0], blocks)
    found = EKFACPenalty(ekfac, centre).gradient(moved)
    for n in blocks:  # ggᵀ(θ − μ), layer by layer
        expected = ((moved[n] - centre[n]) * gradient[n]).sum() * gradient[n]
        torch.testing.assert_close(found[n], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["diagonal", "ekfac"])
def test_rows_and_columns_a_layer_gains_carry_no_penalty(kind: str) -> None:
    model, x = mlp(4, 5, 3), random(9, 4)
    blocks = find_blocks(model)
    centre = {n: b.values().clone() for n, b in blocks.items()}
    if kind == "diagonal":
        penalty: Any = DiagonalPenalty()
        penalty.add(diagonal_fisher(model, [(x,)]), centre)
    else:
        penalty = EKFACPenalty(EKFAC.fit(model, [(x,)]), centre)
    old = penalty.fitted(blocks).gradient({n: theta + 0.1 for n, theta in centre.items()})
    bigger = find_blocks(mlp(4, 5, 7, seed=3))
    now = {n: nn.functional.pad(theta + 0.1, (0, 0, 0, bigger[n].shape[0] - len(theta)), value=7.0) for n, theta in centre.items()}
    grown = penalty.fitted(bigger).gradient(now)
    torch.testing.assert_close(grown["0"], old["0"], **EXACT)
    torch.testing.assert_close(grown["2"][:3], old["2"], **EXACT)
    assert not grown["2"][3:].any()
    assert list(penalty.fitted({"0": blocks["0"]}).gradient({"0": centre["0"]})) == ["0"]  # the other is frozen


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
