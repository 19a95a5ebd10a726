"""docs/theory.md, §3: convergence of a task, of full gradients, of minibatches, and with momentum."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from nets import flat, mlp, unflat
from oracles.quadratics import DAMPING, EXACT, Array, Problem, problem
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ong.methods import ONGPrior

SEEDS = range(8)


@pytest.fixture(params=SEEDS)
def found(request: pytest.FixtureRequest) -> Problem:
    return problem(request.param)


def descended(found: Problem, rate: float, steps: int) -> tuple[list[Array], list[Array]]:
    """θ_k and v_k."""
    path, updates = [found.start], []
    for _ in range(steps):
        updates.append(found.step(found.gradient(path[-1])))
        path.append(path[-1] - rate * updates[-1])
    return path, updates


def test_theorem_1_every_step_falls_by_half_its_squared_length_and_the_rest_follows(found: Problem) -> None:
    smoothness = found.curvatures[-1]
    assert smoothness <= np.linalg.eigvalsh(np.mean(found.hessians, axis=0))[-1] * (1 + EXACT)
    steps = 60
    path, updates = descended(found, 1 / smoothness, steps)
    losses = [found.loss(theta) for theta in path]
    squares = [found.norm2(v) for v in updates]
    for before, after, square in zip(losses, losses[1:], squares, strict=False):
        assert after <= before - square / (2 * smoothness) + EXACT
    assert np.mean(squares) <= 2 * smoothness * (losses[0] - found.loss(found.best)) / steps
    assert np.abs(found.g.T @ (path[-1] - path[0])).max() < EXACT


def test_theorem_1_its_constant_is_that_of_the_metric(found: Problem) -> None:
    """A step of 2.1/β along the steepest eigenvector ascends, one of 1.9/β does not."""
    smoothness = found.curvatures[-1]
    vectors = np.linalg.eigh(found.free.T @ np.mean(found.hessians, axis=0) @ found.free)[1]
    theta = found.best + found.free @ vectors[:, -1]
    v = found.step(found.gradient(theta))
    assert found.loss(theta - 2.1 / smoothness * v) > found.loss(theta) > found.loss(theta - 1.9 / smoothness * v)


def test_theorem_1_v_is_zero_at_the_constrained_minimum_and_only_there(found: Problem) -> None:
    gradient = found.gradient(found.best)
    assert np.linalg.norm(gradient) > 0.1
    np.testing.assert_allclose(found.step(gradient), 0, atol=EXACT)
    path, updates = descended(found, 1 / found.curvatures[-1], 1200)
    np.testing.assert_allclose(updates[-1], 0, atol=1e-6)  # (1 − μ/β)^1200, μ/β about 1/50
    assert found.loss(path[-1]) == pytest.approx(found.loss(found.best), rel=1e-6)


def test_corollary_1_a_pull_adds_no_more_than_its_strength_times_the_damping(found: Problem) -> None:
    pulled = found.free.T @ (np.mean(found.hessians, axis=0) + 0.7 * found.fisher) @ found.free
    assert np.linalg.eigvalsh(pulled)[-1] <= found.curvatures[-1] + 0.7 * DAMPING + EXACT


def test_theorem_3_the_rate_is_linear_where_the_gradient_dominates(found: Problem) -> None:
    least, largest = found.curvatures[0], found.curvatures[-1]
    lowest = found.loss(found.best)
    random = np.random.default_rng(0)
    for _ in range(20):
        theta = found.start + found.free @ random.normal(size=found.free.shape[1])
        assert found.norm2(found.step(found.gradient(theta))) >= 2 * least * (found.loss(theta) - lowest) * (1 - EXACT)
    path, _ = descended(found, 1 / largest, 40)
    for k, theta in enumerate(path):
        assert found.loss(theta) - lowest <= (1 - least / largest) ** k * (found.loss(path[0]) - lowest) + EXACT


def test_theorem_3_along_one_eigenvector_the_ratio_is_exactly_the_square(found: Problem) -> None:
    values, vectors = np.linalg.eigh(found.free.T @ np.mean(found.hessians, axis=0) @ found.free)
    rate = 0.5 / values[-1]
    theta = found.best + found.free @ vectors[:, 0]
    after = theta - rate * found.step(found.gradient(theta))
    ratio = (found.loss(after) - found.loss(found.best)) / (found.loss(theta) - found.loss(found.best))
    assert ratio == pytest.approx((1 - rate * values[0]) ** 2, rel=1e-6)


def paths(found: Problem, rate: float, steps: int) -> list[list[Array]]:
    """Every path of steps along one summand's gradient, equally likely: expectations over them are exact."""
    all_paths = []
    for choice in itertools.product(range(len(found.hessians)), repeat=steps):
        path = [found.start]
        for i in choice:
            path.append(path[-1] - rate * found.p @ found.gradients(path[-1])[i])
        all_paths.append(path)
    return all_paths


def noise(found: Problem, theta: Array, map_: Array) -> float:
    """E (ĝ−g)ᵀ·map·(ĝ−g)."""
    g = found.gradient(theta)
    return float(np.mean([(one - g) @ map_ @ (one - g) for one in found.gradients(theta)]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_theorem_2_of_unbiased_gradients_in_exact_expectation(seed: int, share: float) -> None:
    found = problem(seed, summands=4)
    smoothness, steps = found.curvatures[-1], 4
    rate = share / smoothness
    visited = paths(found, rate, steps)
    sigma = max(noise(found, theta, found.p) for path in visited for theta in path[:-1])
    assert sigma <= max(noise(found, theta, np.eye(found.size)) for path in visited for theta in path[:-1])
    squares = [found.norm2(found.p @ found.gradient(theta)) for path in visited for theta in path[:-1]]
    bound = 2 * (found.loss(found.start) - found.loss(found.best)) / (rate * steps) + smoothness * rate * sigma
    assert np.mean(squares) <= bound
    for k in range(steps):  # and each step in expectation, from which it follows
        before = np.mean([found.loss(path[k]) for path in visited])
        after = np.mean([found.loss(path[k + 1]) for path in visited])
        length = np.mean([found.norm2(found.p @ found.gradient(path[k])) for path in visited])
        assert after <= before - rate / 2 * length + smoothness * rate**2 * sigma / 2 + EXACT


@pytest.mark.parametrize("seed", range(4))
def test_theorem_2_the_length_of_a_stochastic_task_is_bounded(seed: int) -> None:
    found = problem(seed, summands=4)
    smoothness, steps = found.curvatures[-1], 4
    rate = 0.5 / smoothness
    visited = paths(found, rate, steps)
    sigma = max(noise(found, theta, found.p) for path in visited for theta in path[:-1])
    fallen = found.loss(found.start) - np.mean([found.loss(path[-1]) for path in visited])
    length = np.mean([found.norm2(path[-1] - path[0]) for path in visited])
    assert length <= 4 * rate * steps * fallen + 2 * rate**2 * steps * (1 + smoothness * rate * steps) * sigma


@pytest.mark.parametrize("momentum", [0.5, 0.9])
def test_proposition_1_momentum_has_an_energy_that_falls(found: Problem, momentum: float) -> None:
    smoothness, steps = found.curvatures[-1], 80
    rate = (1 - momentum) / smoothness
    path, buffer, energies, moved, updates = [found.start], np.zeros(found.size), [], [], []
    for _ in range(steps):
        updates.append(found.step(found.gradient(path[-1])))
        buffer = momentum * buffer + updates[-1]
        path.append(path[-1] - rate * buffer)
        moved.append(found.norm2(path[-1] - path[-2]))
        energies.append(found.loss(path[-1]) + momentum / (2 * rate) * moved[-1])
    for before, after, d in zip([found.loss(found.start), *energies], energies, moved, strict=False):
        assert after <= before - (1 - momentum) / (2 * rate) * d + EXACT
    fallen = found.loss(path[0]) - found.loss(path[-1])
    assert sum(moved) <= 2 * rate / (1 - momentum) * fallen + EXACT
    assert found.norm2(path[-1] - path[0]) <= 2 * rate * steps / (1 - momentum) * fallen + EXACT
    mean = np.mean([found.norm2(v) for v in updates])
    lowest = found.loss(found.best)
    assert mean <= 4 * (1 + momentum**2) * (found.loss(path[0]) - lowest) / (rate * (1 - momentum) * steps)
    assert np.abs(found.g.T @ (path[-1] - path[0])).max() < EXACT


def test_proposition_1_a_buffer_from_another_task_leaks_by_a_geometric_sum(found: Problem) -> None:
    momentum, rate, steps = 0.9, 0.01, 7
    first = np.random.default_rng(0).normal(size=found.size)
    theta, buffer = found.start, first
    for _ in range(steps):
        buffer = momentum * buffer + found.step(found.gradient(theta))
        theta = theta - rate * buffer
    expected = -rate * momentum * (1 - momentum**steps) / (1 - momentum) * found.g.T @ first
    np.testing.assert_allclose(found.g.T @ (theta - found.start), expected, atol=EXACT)
    assert np.abs(expected).max() > 1e-3


# A small net, with constants that are measured.


class Trained:
    """The second task of a tanh net under ONGPrior, and its loss as a function of all parameters."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.model = mlp(4, 6, 3, seed=seed)
        self.tasks = [
            (torch.randn(18, 4, generator=generator).double(), torch.randint(0, 3, (18,), generator=generator))
            for _ in range(2)
        ]
        self.method = ONGPrior(damping=0.3, directions_per_task=6, seed=seed)
        sgd = torch.optim.SGD(self.model.parameters(), lr=0.3)
        self.method.attach(self.model, sgd)
        for task, data in enumerate(self.tasks):
            self.method.begin_task(list(data))
            if task == 1:
                break
            for _ in range(15):
                sgd.zero_grad()
                nn.functional.cross_entropy(self.model(data[0]), data[1]).backward()
                sgd.step()
            self.method.end_task()
        self.blocks = self.method.blocks
        self.theta = torch.cat([block.values().flatten() for block in self.blocks.values()])

    def loss(self, theta: Tensor, rows: slice = slice(None)) -> Tensor:
        x, y = (column[rows] for column in self.tasks[1])
        parts = {}
        for name, matrix in unflat(theta, self.blocks).items():
            parts[f"{name}.weight"], parts[f"{name}.bias"] = matrix[:, :-1], matrix[:, -1]
        return nn.functional.cross_entropy(functional_call(self.model, parts, (x,)), y)

    def gradient(self, theta: Tensor, rows: slice = slice(None)) -> Tensor:
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad(self.loss(leaf, rows), leaf)[0]

    def step(self, gradient: Tensor) -> Tensor:
        return flat(self.method.update(unflat(gradient, self.blocks)), self.blocks)

    def norm2(self, vector: Tensor) -> float:
        metric = self.method.past.metric
        assert metric is not None
        parts = unflat(vector, self.blocks)
        return float(vector @ vector + vector @ flat(metric.curvature(parts), self.blocks) / metric.damping)

    def smoothness(self, theta: Tensor, moved: Tensor) -> float:
        """The largest dᵀ∇²L d/‖d‖²_M on a segment, which is the β that Theorem 1 needs of it."""

        def slope(theta: Tensor) -> Tensor:
            return jvp(self.loss, (theta,), (moved,))[1]

        along = [float(jvp(slope, (theta + tau * moved,), (moved,))[1]) for tau in np.linspace(0, 1, 9)]
        return max(along) / self.norm2(moved)


@pytest.mark.parametrize("seed", range(3))
def test_theorems_1_and_2_hold_on_a_net_with_its_measured_constants(seed: int) -> None:
    net = Trained(seed)
    theta, rate, squares, start = net.theta, 0.4, [], float(net.loss(net.theta))
    for _ in range(12):
        v = net.step(net.gradient(theta))
        squares.append(net.norm2(v))
        batches = [slice(i, i + 6) for i in range(0, 18, 6)]
        noisy = [net.step(net.gradient(theta, rows)) for rows in batches]
        beta = max(net.smoothness(theta, -rate * update) for update in (v, *noisy))
        assert rate <= 1 / beta
        after = float(net.loss(theta - rate * v))
        assert after <= float(net.loss(theta)) - rate / 2 * squares[-1]
        sigma = np.mean([net.norm2(update - v) for update in noisy])  # ‖Pe‖²_M = eᵀPe
        expected = np.mean([float(net.loss(theta - rate * update)) for update in noisy])
        assert expected <= float(net.loss(theta)) - rate / 2 * squares[-1] + beta * rate**2 * sigma / 2
        theta = theta - rate * v
    assert np.mean(squares) <= 2 * (start - float(net.loss(theta))) / (rate * 12)
