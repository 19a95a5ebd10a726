"""docs/theory.md, §2 and §5: what P is, that v is the best of its class, and where ONG's published steps are not."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import torch
from nets import unflat
from oracles.quadratics import DAMPING, EXACT, Problem, problem
from torch import nn

from ong.curvature import EKFAC, Metric
from ong.methods import OGD, ONG, ONGPrior, ONGv1
from ong.projection import DenseRows, DirectionMemory, EuclideanProjection, MetricProjection

SEEDS = range(12)
pytestmark = pytest.mark.filterwarnings("ignore:.*of the space is left")


@pytest.fixture(params=SEEDS)
def found(request: pytest.FixtureRequest) -> Problem:
    return problem(request.param)


def test_lemma_1_the_packages_projection_is_p_and_has_its_algebra(found: Problem) -> None:
    p = np.stack([found.step(unit) for unit in np.eye(found.size)], 1)
    np.testing.assert_allclose(p, found.p, atol=EXACT)
    np.testing.assert_allclose(p @ found.m @ p, p, atol=EXACT)
    np.testing.assert_allclose(found.g.T @ p, 0, atol=EXACT)
    inverse = np.linalg.inv(found.m)
    for larger, smaller in ((p, 0 * p), (inverse, p), (np.eye(found.size), inverse)):
        assert np.linalg.eigvalsh(larger - smaller).min() > -EXACT
    root = np.linalg.inv(found.root)
    q = np.linalg.qr(root @ found.g)[0]
    np.testing.assert_allclose(root @ (np.eye(found.size) - q @ q.T) @ root, p, atol=EXACT)


def test_lemma_1_the_slope_along_v_is_its_squared_length(found: Problem) -> None:
    g = found.gradient(found.start)
    v = found.step(g)
    assert g @ v == pytest.approx(found.norm2(v), rel=EXACT)
    for d in found.free.T:  # gᵀd = ⟨v, d⟩_M on ker Gᵀ
        assert g @ d == pytest.approx(v @ found.m @ d, abs=EXACT)


def test_lemma_2_steps_are_gradient_descent_in_other_coordinates(found: Problem) -> None:
    free = found.free
    g = found.gradient(found.start)
    np.testing.assert_allclose(found.step(g), free @ (free.T @ g), atol=EXACT)


def test_remark_1_what_the_rank_cut_lets_through_is_bounded() -> None:
    """Nearly equal directions, of which the Gram's eigenvalues below 1e-6 of the largest are dropped."""
    found = problem(0)
    generator = torch.Generator().manual_seed(1)
    base = {name: torch.randn(1, *b.shape, generator=generator).double() for name, b in found.blocks.items()}
    near = {n: part + 3e-4 * torch.randn(8, *part.shape[1:], generator=generator).double() for n, part in base.items()}
    memory = DirectionMemory({name: DenseRows(part) for name, part in near.items()})
    projection = MetricProjection(memory, found.projection.metric)
    assert projection.solver is not None
    assert projection.solver.rank < 8
    update = projection(unflat(torch.from_numpy(found.gradient(found.start)), found.blocks))
    v = torch.cat([part.flatten() for part in update.values()]).numpy()
    g = torch.cat([part.flatten(1) for part in near.values()], 1).numpy()
    lengths = np.sqrt(np.einsum("ni,ij,nj->n", g, np.linalg.inv(found.m), g))
    gram = g @ np.linalg.inv(found.m) @ g.T / np.outer(lengths, lengths)
    bound = (1e-6 * np.linalg.eigvalsh(gram)[-1]) ** 0.5 * found.norm2(v) ** 0.5
    leaks = np.abs(g @ v) / lengths
    assert 0 < leaks.max() <= bound


def test_theorem_8_no_allowed_direction_has_a_larger_slope(found: Problem) -> None:
    g = found.gradient(found.start)
    v = found.step(g)
    best = g @ v / found.norm2(v) ** 0.5
    random = np.random.default_rng(0)
    for _ in range(200):
        u = found.free @ random.normal(size=found.free.shape[1])
        assert g @ u / found.norm2(u) ** 0.5 <= best * (1 + EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_theorem_8_a_solver_finds_no_better_one(seed: int) -> None:
    found = problem(seed)
    g = found.gradient(found.start)
    v = found.step(g)
    by_solver = scipy.optimize.minimize(
        lambda u: -g @ u, found.free[:, 0], jac=lambda u: -g, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500},
        constraints=[
            {"type": "eq", "fun": lambda u: found.g.T @ u, "jac": lambda u: found.g.T},
            {"type": "ineq", "fun": lambda u: 1 - found.norm2(u), "jac": lambda u: -2 * found.m @ u},
        ],
    )  # fmt: skip
    assert -by_solver.fun == pytest.approx(g @ v / found.norm2(v) ** 0.5, rel=1e-5)


def test_proposition_2_displacements_of_any_optimizer_keep_the_outputs_but_may_ascend(found: Problem) -> None:
    random = np.random.default_rng(3)
    ascents = 0
    for _ in range(300):
        g = random.normal(size=found.size)
        displacement = -g / np.abs(g)  # Adam's first step
        moved = found.step(displacement)
        assert np.abs(found.g.T @ moved).max() < EXACT
        assert displacement @ moved >= 0
        ascents += g @ moved > 0
    g, u = np.array([1.0, 50.0]), np.array([1.0, 1.0]) / 2**0.5
    displacement = -g / np.array([0.01, 100.0])
    assert g @ (displacement - u * (u @ displacement)) == pytest.approx(2437.75)


def attached(method: OGD | ONG | ONGPrior | ONGv1, inputs: torch.Tensor, current: torch.Tensor) -> None:
    """A linear model of one output, without bias, after a task and in the beginning of the next."""
    model = nn.Linear(inputs.shape[1], 1, bias=False).double()
    method.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), criterion=nn.MSELoss())
    method.begin_task([inputs, inputs[:, :1]])
    with pytest.warns(UserWarning, match="took no step"):
        method.end_task()
    method.begin_task([current, current[:, :1]])
    method.before_step()  # takes the current Fisher


CURRENT = torch.tensor([[0.02**0.5, 0.0], [0.0, 2**0.5]], dtype=torch.float64)  # E[xxᵀ] = diag(.01, 1)


@pytest.mark.parametrize("damping", [1e-4, 1e-2])
def test_proposition_3_ong_v1_ascends_where_ong_prior_descends(damping: float) -> None:
    old = torch.tensor([[1.0, 1.0]], dtype=torch.float64) / 2**0.5
    g = {"": torch.tensor([[1.0, 50.0]], dtype=torch.float64)}
    slopes = {}
    for method in (ONGv1(damping=damping), ONGPrior(damping=damping), OGD()):
        attached(method, old, CURRENT)
        v = method.update(g)[""]
        assert abs(float((old * v).sum())) < EXACT  # all three keep the stored output
        slopes[type(method).__name__] = float((g[""] * v).sum())
    n = np.diag(damping / (np.array([0.01, 1.0]) + damping))
    off = np.eye(2) - old.numpy().T @ old.numpy()
    expected = g[""].numpy()[0] @ off @ n @ g[""].numpy()[0]
    assert slopes["ONGv1"] == pytest.approx(expected, rel=1e-9)
    assert slopes["ONGv1"] < 0 < min(slopes["ONGPrior"], slopes["OGD"])


def test_proposition_3_a_step_ascends_unless_projection_and_metric_commute() -> None:
    """ΠN + NΠ is positive semidefinite if and only if ΠN = NΠ."""
    random = np.random.default_rng(0)
    for _ in range(50):
        basis = np.linalg.qr(random.normal(size=(5, 5)))[0]
        off = np.eye(5) - basis[:, :2] @ basis[:, :2].T
        values = random.uniform(0.01, 1, 5)
        root = random.normal(size=(5, 5))
        for n, commutes in ((basis @ np.diag(values) @ basis.T, True), (root @ root.T + 0.01 * np.eye(5), False)):
            least = np.linalg.eigvalsh(off @ n + n @ off)[0]
            assert (least > -1e-12) == commutes == bool(np.abs(off @ n - n @ off).max() < 1e-12)


def test_proposition_4_ong_v3_leaks_at_first_order_unless_its_span_is_an_eigenspace() -> None:
    generator = torch.Generator().manual_seed(0)
    mixed = torch.randn(6, 6, generator=generator, dtype=torch.float64) * torch.arange(1.0, 7.0)
    eigenvectors = torch.diag(torch.arange(1.0, 7.0)).double()
    current = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    g = torch.randn(1, 6, generator=generator, dtype=torch.float64)
    drawn = torch.randperm(6, generator=torch.Generator().manual_seed(0))[:2]  # what methods of seed 0 store
    leaks = {}
    for kind, inputs in (("mixed", mixed), ("eigenvectors", eigenvectors)):
        for method in (ONG(damping=1.0, directions_per_task=2), OGD(directions_per_task=2)):
            attached(method, inputs, current)
            v = method.update({"": g})[""][0]
            stored = inputs[drawn]
            leaks[kind, type(method).__name__] = float((stored @ v / stored.norm(dim=1) / v.norm()).abs().max())
    assert leaks.pop(("mixed", "ONG")) > 0.05
    assert max(leaks.values()) < EXACT


def test_a_metric_without_fisher_is_ogds(found: Problem) -> None:
    g = unflat(torch.from_numpy(found.gradient(found.start)), found.blocks)
    memory = found.projection.memory
    flat_metric = MetricProjection(memory, Metric(EKFAC(), found.blocks, DAMPING))
    for name, part in EuclideanProjection(memory)(g).items():
        torch.testing.assert_close(flat_metric(g)[name], part, rtol=EXACT, atol=EXACT)
