"""docs/theory.md, §4 and §6: what a step promises of old outputs, stored and not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from nets import flat, jacobian, mlp, unflat, written_out
from oracles.quadratics import DAMPING, EXACT, Array, Problem, problem
from torch import Tensor, nn
from torch.func import functional_call, hessian

from ong.curvature import (
    EKFAC,
    Block,
    Metric,
    evaluating,
    find_blocks,
    first_order_change,
    gradients_at,
    metric_change,
    outputs_at,
    remainder_bound,
)
from ong.methods import NCL, OGD, ONG, Method, ONGPrior, ONGv1

pytestmark = pytest.mark.filterwarnings("ignore:.*of the space is left")
Task = tuple[Tensor, Tensor]
EXAMPLES = 6


def data(seed: int, examples: int = EXAMPLES, width: int = 4, classes: int = 3) -> Task:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, width, generator=generator).double()
    return x, torch.randint(0, classes, (examples,), generator=generator)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def minus(left: dict[str, Tensor], right: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: left[name] - right[name] for name in left}


def learned(
    method: Method | None, optimizer: str, seed: int, rate: float, model: nn.Module | None = None, **options: int
) -> tuple[nn.Module, list[Task], list[dict[str, Tensor]]]:
    """A net after three tasks, the tasks, and the weights each ended with."""
    model = mlp(4, 6, 3, seed=seed) if model is None else model
    made = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=rate),
        "momentum": lambda: torch.optim.SGD(model.parameters(), lr=rate / 5, momentum=0.9, nesterov=True),
        "adam": lambda: torch.optim.Adam(model.parameters(), lr=rate / 10),
    }[optimizer]()
    tasks = [data(100 * seed + t, **options) for t in range(3)]
    ends = []
    if method is not None:
        method.attach(model, made)
    for task in tasks:
        if method is not None:
            method.begin_task(list(task))
        for _ in range(10):
            made.zero_grad()
            nn.functional.cross_entropy(model(task[0]), task[1]).backward()
            made.step()
        if method is not None:
            method.end_task()
        ends.append(weights(model))
    return model, tasks, ends


def true_logits(model: nn.Module, at: dict[str, Tensor], task: Task) -> Tensor:
    return functional_call(model, at, (task[0],)).gather(1, task[1][:, None])[:, 0]


def between(start: dict[str, Tensor], end: dict[str, Tensor], points: int) -> list[dict[str, Tensor]]:
    taus = np.linspace(0, 1, points)
    return [{name: start[name] + tau * (end[name] - start[name]) for name in start} for tau in taus]


KEEPING: dict[str, Callable[[int], Method]] = {
    "ogd": lambda seed: OGD(directions_per_task=EXAMPLES, seed=seed),
    "ong-v1": lambda seed: ONGv1(directions_per_task=EXAMPLES, seed=seed),
    "ong-prior": lambda seed: ONGPrior(directions_per_task=EXAMPLES, seed=seed),
}


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", KEEPING)
def test_theorem_4_stored_outputs_move_by_no_more_than_the_remainder(name: str, optimizer: str) -> None:
    model, tasks, ends = learned(KEEPING[name](0), optimizer, 0, rate=0.5)
    for s, t in ((0, 1), (0, 2), (1, 2)):
        values = torch.stack([true_logits(model, at, tasks[s]) for at in between(ends[s], ends[t], 65)])
        moved = (values[-1] - values[0]).abs()
        assert moved.max() > 1e-4
        assert (moved <= remainder_bound(values) * (1 + 1e-2)).all()  # second differences of 1/64


def test_theorem_4_the_remainder_is_at_most_half_the_hessian_norm_times_the_squared_way() -> None:
    model, tasks, ends = learned(KEEPING["ong-prior"](0), "adam", 0, rate=0.5)
    names, shapes = list(ends[0]), [ends[0][name].shape for name in ends[0]]
    sizes = [shape.numel() for shape in shapes]

    def output(theta: Tensor, n: int) -> Tensor:
        parts = {k: p.reshape(s) for k, p, s in zip(names, theta.split(sizes), shapes, strict=True)}
        x, y = tasks[0]
        return functional_call(model, parts, (x[n : n + 1],))[0, y[n]]

    way = between(ends[0], ends[2], 17)
    points = [torch.cat([at[name].flatten() for name in names]) for at in way]
    square = float((points[-1] - points[0]).square().sum())
    remainder = remainder_bound(torch.stack([true_logits(model, at, tasks[0]) for at in way]))
    for n in range(3):
        norms = [float(torch.linalg.matrix_norm(hessian(lambda th, n=n: output(th, n))(p), 2)) for p in points]
        moved = float((output(points[-1], n) - output(points[0], n)).abs())
        assert moved <= float(remainder[n]) * 1.01 <= max(norms) * square / 2 * 1.02


def test_the_remainder_of_a_parabola_is_exact_and_needs_three_points() -> None:
    tau = torch.linspace(0, 1, 6, dtype=torch.float64)[:, None]
    found = remainder_bound(torch.tensor([3.0, -2.0]) * tau**2 + 5 * tau - 1)
    torch.testing.assert_close(found, torch.tensor([3.0, 2.0]).double(), rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="three points"):
        remainder_bound(torch.zeros(2, 4))


@pytest.mark.parametrize("name", ["naive", "ong"])
def test_theorem_4_fails_for_steps_that_leave_the_kernel(name: str) -> None:
    """Plain SGD and ONG v3 move stored outputs at first order, past the remainder."""
    method = ONG(directions_per_task=EXAMPLES) if name == "ong" else None
    model, tasks, ends = learned(method, "sgd", 0, rate=0.1)
    values = torch.stack([true_logits(model, at, tasks[0]) for at in between(ends[0], ends[1], 65)])
    assert ((values[-1] - values[0]).abs() > 2 * remainder_bound(values)).sum() >= EXAMPLES // 2


# Outputs that were not stored.


def linear(seed: int) -> tuple[nn.Module, dict[str, Block], EKFAC, Tensor]:
    """A linear model of one output, of which the EKFAC is the exact F."""
    model = nn.Linear(5, 1).double()
    x = data(seed, 20, 5)[0] * torch.arange(1.0, 6.0)
    blocks = find_blocks(model)
    return model, blocks, EKFAC.fit(model, [[x, x[:, 0]]], fisher="logit"), x


@pytest.mark.parametrize("seed", range(5))
def test_theorem_5_the_metric_knows_the_change_of_old_outputs(seed: int) -> None:
    model, blocks, ekfac, x = linear(seed)
    metric = Metric(ekfac, blocks, DAMPING)
    start = weights(model)
    moved = {
        name: torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)).double() for name, p in start.items()
    }
    end = {name: start[name] + moved[name] for name in start}
    vector = {"": torch.cat([moved["weight"], moved["bias"][:, None]], 1)}
    change = outputs_at(model, end, x) - outputs_at(model, start, x)
    promised = metric_change(metric, vector)
    assert promised == pytest.approx(float(change.square().mean()), rel=1e-10)
    length = promised / DAMPING + float(vector[""].square().sum())
    assert promised <= DAMPING * length
    np.testing.assert_allclose(first_order_change(model, start, moved, x).detach(), change.detach(), rtol=1e-10)
    norm = float(torch.linalg.eigvalsh(written_out(ekfac.blocks[""]))[-1])
    assert promised <= DAMPING * norm / (DAMPING + norm) * length * (1 + EXACT)


def test_theorem_5_of_a_net_differs_from_it_by_the_error_of_the_ekfac() -> None:
    found = problem(3)
    metric = found.projection.metric
    jac = jacobian(found.model, found.past).numpy()
    exact = np.einsum("nci,ncj->ij", jac, jac) / len(jac)
    random = np.random.default_rng(0)
    for _ in range(20):
        d = random.normal(size=found.size)
        promised = metric_change(metric, unflat(torch.from_numpy(d), found.blocks))
        assert promised == pytest.approx(found.norm2(d) * DAMPING - d @ d * DAMPING, rel=1e-9)
        mean = np.mean(np.square(jac @ d).sum(1))
        assert mean == pytest.approx(promised + d @ (exact - found.fisher) @ d, rel=1e-9)


def quadratic_run(found: Problem, move: Callable[[Array], Array], rate: float, steps: int) -> tuple[float, float]:
    """ΔᵀFΔ and the fall of the loss."""
    theta = found.start
    for _ in range(steps):
        theta = theta - rate * move(found.gradient(theta))
    d = theta - found.start
    return float(d @ found.fisher @ d), found.loss(found.start) - found.loss(theta)


@pytest.mark.parametrize("seed", range(6))
def test_corollary_2_the_fall_of_the_loss_pays_for_what_old_outputs_move(seed: int) -> None:
    found, steps = problem(seed), 20
    rate = 1 / np.linalg.eigvalsh(np.mean(found.hessians, axis=0))[-1]
    moved, fallen = quadratic_run(found, found.step, rate, steps)
    assert moved <= 2 * DAMPING * rate * steps * fallen
    norm = np.linalg.eigvalsh(found.fisher)[-1]
    q = np.linalg.qr(found.g)[0]
    for move in (lambda g: g, lambda g: g - q @ (q.T @ g)):  # SGD, OGD: ‖F‖ in λ's place
        plain, fell = quadratic_run(found, move, rate, steps)
        assert plain <= 2 * norm * rate * steps * fell
        assert norm > DAMPING


def test_corollary_2_does_not_hold_without_the_metric_of_the_past() -> None:
    """A task whose gradient lies, off G, along what old outputs use most: SGD, OGD and ONG v1 exceed λ's bound."""
    found, rate, steps = problem(0), 0.1, 10
    q = np.linalg.qr(found.g)[0]
    off = np.eye(found.size) - q @ q.T
    along = np.linalg.eigh(off @ found.fisher @ off)[1][:, -1]
    found.hessians, found.centres = [np.eye(found.size)], [found.start + along]
    current = np.diag(DAMPING / (np.linspace(0, 0.05, found.size) + DAMPING))  # of a task that knows nothing of F
    moves: dict[str, Callable[[Array], Array]] = {
        "sgd": lambda g: g,
        "ogd": lambda g: off @ g,
        "ong-v1": lambda g: off @ current @ g,
        "ong-prior": found.step,
    }
    excess = {}
    for name, move in moves.items():
        moved, fallen = quadratic_run(found, move, rate, steps)
        excess[name] = moved / (2 * DAMPING * rate * steps * fallen)
    assert excess.pop("ong-prior") < 1 < min(excess.values())


@pytest.mark.parametrize("seed", range(3))
def test_corollary_3_the_change_itself_differs_by_the_second_order(seed: int) -> None:
    """‖h(θ_t) − h(θ_{t−1}) − J_sΔ‖ ≤ H(‖θ_{t−1} − θ_s‖ + ½‖Δ‖)‖Δ‖, H over the triangle of the three weights."""
    model, tasks, ends = learned(ONGPrior(directions_per_task=2, seed=seed), "sgd", seed, rate=0.3)
    then, start, end = ends
    x = tasks[0][0]
    moved = minus(end, start)
    change = outputs_at(model, end, x) - outputs_at(model, start, x)
    left = (change - first_order_change(model, then, moved, x)).norm(dim=1).detach()
    names, sizes = list(then), [then[name].numel() for name in then]

    def point(at: dict[str, Tensor]) -> Tensor:
        return torch.cat([at[name].flatten() for name in names])

    def outputs(theta: Tensor, n: int) -> Tensor:
        parts = {k: p.reshape(then[k].shape) for k, p in zip(names, theta.split(sizes), strict=True)}
        return functional_call(model, parts, (x[n : n + 1],))[0]

    corners = [point(at) for at in (then, start, end)]
    triangle = [a * corners[0] + b * corners[1] + (1 - a - b) * corners[2] for a, b in ((1, 0), (0, 1), (0, 0), (1 / 3, 1 / 3), (0.5, 0.5), (0, 0.5), (0.5, 0))]  # fmt: skip
    way, earlier = (corners[2] - corners[1]).norm(), (corners[1] - corners[0]).norm()
    for n in range(3):
        norms = []
        for theta in triangle:
            h = hessian(lambda th, n=n: outputs(th, n))(theta)
            norms.append(torch.linalg.matrix_norm(h, 2).square().sum().sqrt())
        assert left[n] <= max(norms) * (earlier + way / 2) * way
    squares = [float(part.square().sum(1).mean()) ** 0.5 for part in (change, change * 0 + left[:, None] / 3**0.5)]
    exact = float(first_order_change(model, then, moved, x).square().sum(1).mean()) ** 0.5
    assert squares[0] <= exact + squares[1] + EXACT  # Minkowski


def test_corollary_4_the_roots_of_certificates_add_up_over_tasks() -> None:
    model, blocks, ekfac, x = linear(0)
    random = torch.Generator().manual_seed(0)
    start, total = weights(model), 0.0
    at = start
    for _ in range(4):
        moved = {name: torch.randn(p.shape, generator=random).double() for name, p in start.items()}
        at = {name: at[name] + moved[name] for name in at}
        vector = {"": torch.cat([moved["weight"], moved["bias"][:, None]], 1)}
        total += metric_change(Metric(ekfac, blocks, DAMPING), vector) ** 0.5
    change = outputs_at(model, at, x) - outputs_at(model, start, x)
    assert float(change.square().mean()) ** 0.5 <= total


# A single example.


@pytest.mark.parametrize("seed", range(6))
def test_theorem_6_the_distance_to_the_span_bounds_an_unseen_output(seed: int) -> None:
    found = problem(seed)
    unseen = torch.randn(5, 4, generator=torch.Generator().manual_seed(seed)).double()
    rows = jacobian(found.model, unseen).numpy()[:, 0]
    outside = np.linalg.inv(found.root)
    random = np.random.default_rng(0)
    for j in rows:
        left = outside @ j - outside @ found.g @ np.linalg.lstsq(outside @ found.g, outside @ j, rcond=None)[0]
        distance = float(np.linalg.norm(left))
        assert j @ found.step(j) == pytest.approx(distance**2, rel=1e-8)
        for _ in range(20):
            d = found.free @ random.normal(size=found.free.shape[1])
            assert abs(j @ d) <= distance * found.norm2(d) ** 0.5 * (1 + EXACT)
        worst = found.step(j)
        assert abs(j @ worst) == pytest.approx(distance * found.norm2(worst) ** 0.5, rel=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_theorem_6_of_several_outputs_takes_the_largest_eigenvalue(seed: int) -> None:
    found = problem(seed)
    jac = jacobian(found.model, torch.ones(1, 4).double()).numpy()[0]
    largest = np.linalg.eigvalsh(jac @ np.stack([found.step(j) for j in jac], 1))[-1]
    for column in found.free.T:
        assert np.square(jac @ column).sum() <= largest * found.norm2(column) * (1 + EXACT)


def test_gradients_at_are_rows_of_the_jacobian() -> None:
    model = mlp(4, 5, 3)
    other = {name: p.detach() * 1.5 for name, p in model.named_parameters()}
    x = data(0)[0]
    cotangents = torch.eye(3).double()[torch.arange(EXAMPLES) % 3]
    found = torch.stack(
        [torch.cat([g.flatten() for g in row.values()]) for row in gradients_at(model, other, x, cotangents)]
    )
    model.load_state_dict(other)
    with evaluating(model):
        rows = [torch.autograd.grad(model(x)[n, n % 3], list(model.parameters())) for n in range(EXAMPLES)]
    expected = torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("name", ["ogd", "ong-prior"])
def test_theorem_7_a_linear_models_old_outputs_do_not_move_at_all(name: str, optimizer: str) -> None:
    """With the gradients of all outputs; of true logits alone, only these stay."""
    for directions in ("all", "gtl"):
        options = {"directions_per_task": 4, "directions": directions}
        method = OGD(**options) if name == "ogd" else ONGPrior(**options)  # type: ignore[arg-type]
        model = nn.Linear(16, 3).double()
        model, tasks, ends = learned(method, optimizer, 1, 0.5, model, examples=4, width=16)
        before, after = (functional_call(model, at, (tasks[0][0],)) for at in (ends[0], ends[2]))
        true = torch.nn.functional.one_hot(tasks[0][1], 3).bool()
        moved = (after - before).abs()
        assert moved[true].max() < 1e-9
        assert (moved.max() < 1e-9) == (directions == "all")
        new = functional_call(model, ends[2], (tasks[2][0],)) - functional_call(model, ends[1], (tasks[2][0],))
        assert new.abs().max() > 1e-2  # and it learned


# Stored outputs.


class Stored:
    """J = L + (1/n)Σ[α‖h − z‖² + α_y CE] of a tanh net in the metric of its stored examples."""

    def __init__(self, seed: int, alpha: float) -> None:
        self.model, tasks, ends = learned(NCL(), "sgd", seed, rate=0.3)
        self.new, old = data(900 + seed, 12), tasks[:2]
        self.x, self.y = (torch.cat(parts) for parts in zip(*old, strict=True))
        self.z = torch.cat([functional_call(self.model, end, (task[0],)) for end, task in zip(ends, old, strict=False)])
        self.z = self.z.detach()
        self.alpha, self.blocks = alpha, find_blocks(self.model)
        self.metric = Metric(EKFAC.fit(self.model, [[self.x, self.y]], fisher="logit"), self.blocks, DAMPING)
        self.theta = torch.cat([block.values().flatten() for block in self.blocks.values()])

    def outputs(self, theta: Tensor, x: Tensor) -> Tensor:
        parts = {}
        for name, matrix in unflat(theta, self.blocks).items():
            parts[f"{name}.weight"], parts[f"{name}.bias"] = matrix[:, :-1], matrix[:, -1]
        return functional_call(self.model, parts, (x,))

    def drift(self, theta: Tensor) -> Tensor:
        return (self.outputs(theta, self.x) - self.z).square().sum(1).mean()

    def others(self, theta: Tensor) -> Tensor:
        new = nn.functional.cross_entropy(self.outputs(theta, self.new[0]), self.new[1])
        return new + 0.5 * nn.functional.cross_entropy(self.outputs(theta, self.x), self.y)

    def objective(self, theta: Tensor) -> Tensor:
        return self.others(theta) + self.alpha * self.drift(theta)

    def gradient(self, theta: Tensor, of: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        leaf = theta.detach().requires_grad_()
        return torch.autograd.grad((of or self.objective)(leaf), leaf)[0]

    def step(self, gradient: Tensor) -> Tensor:
        return flat(self.metric.precondition(unflat(gradient, self.blocks)), self.blocks)

    def norm2(self, vector: Tensor) -> float:
        return float(vector @ vector) + self.change(vector) / DAMPING

    def change(self, vector: Tensor) -> float:
        return metric_change(self.metric, unflat(vector, self.blocks))


@pytest.mark.parametrize("seed", range(3))
def test_theorem_9_stored_outputs_stay_within_the_objective_through_the_whole_task(seed: int) -> None:
    net, rate, steps = Stored(seed, alpha=2.0), 0.1, 150
    theta = net.theta
    first = float(net.objective(theta))
    lengths = []
    for _ in range(steps):
        v = net.step(net.gradient(theta))
        before = float(net.objective(theta))
        theta = theta - rate * v
        lengths.append(net.norm2(v))
        assert float(net.objective(theta)) <= before - rate / 2 * lengths[-1] + EXACT
        drift = float(net.drift(theta))
        assert drift <= (first - float(net.others(theta))) / net.alpha + EXACT <= first / net.alpha
    fallen = first - float(net.objective(theta))
    assert fallen > 0.1
    assert np.mean(lengths) <= 2 * fallen / (rate * steps)
    moved = net.change(theta - net.theta)
    assert moved <= 2 * DAMPING * rate * steps * fallen
    alone = net.theta  # the same steps on the new task's loss alone, of whose fall the stored outputs know nothing
    for _ in range(steps):
        alone = alone - rate * net.gradient(alone, net.others)
    assert float(net.drift(alone)) > 3 * float(net.drift(theta))


def test_theorem_9_minibatches_add_their_noise_in_expectation() -> None:
    """Exact, over all choices of one stored example and one new one a step."""
    net, rate, steps = Stored(0, alpha=2.0), 0.05, 2
    new = [slice(i, i + 4) for i in range(0, 12, 4)]
    old = [slice(i, i + 6) for i in range(0, 12, 6)]

    def part(theta: Tensor, i: slice, j: slice) -> Tensor:
        h = net.outputs(theta, net.x[j])
        stored = 0.5 * nn.functional.cross_entropy(h, net.y[j]) + net.alpha * (h - net.z[j]).square().sum(1).mean()
        return nn.functional.cross_entropy(net.outputs(theta, net.new[0][i]), net.new[1][i]) + stored

    level, noises, betas = [net.theta], [], []
    for _ in range(steps):
        following = []
        for theta in level:
            full = net.step(net.gradient(theta))
            noisy = [net.step(net.gradient(theta, lambda t, i=i, j=j: part(t, i, j))) for i in new for j in old]
            torch.testing.assert_close(torch.stack(noisy).mean(0), full, rtol=1e-9, atol=1e-12)  # unbiased
            noises.append(np.mean([net.norm2(v - full) for v in noisy]))
            for v in noisy:
                slope = float(net.gradient(theta) @ v)
                left = float(net.objective(theta - rate * v)) - float(net.objective(theta)) + rate * slope
                betas.append(2 * left / (rate**2 * net.norm2(v)))
            following += [theta - rate * v for v in noisy]
        level = following
    beta, sigma = max(betas), max(noises)
    assert rate <= 1 / beta
    bound = (float(net.objective(net.theta)) + steps * beta * rate**2 * sigma / 2) / net.alpha
    assert np.mean([float(net.drift(theta)) for theta in level]) <= bound
