"""Leading eigenpairs from a sketch against dense eigendecompositions, and what an approximate basis leaves exact."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from nets import diagonal_blocks, fisher, jacobian, mlp, seeded
from torch import Tensor, nn

from ong.curvature import EKFAC, EigenBlock, Metric, find_blocks
from ong.curvature.sketch import Sketch, is_wide, random_vectors

COLUMNS, RANK = 60, 6


def rows(decay: float, count: int = 80, dtype: torch.dtype = torch.float64) -> Tensor:
    """Examples whose covariance has eigenvalues that fall by about ``decay`` each, in a random basis."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, COLUMNS, generator=generator, dtype=torch.float64) * decay ** (torch.arange(COLUMNS) / 2)
    basis = torch.linalg.qr(torch.randn(COLUMNS, COLUMNS, generator=generator, dtype=torch.float64)).Q
    return (x @ basis).to(dtype)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of more than 20 columns, and of more than three times the rank, are wide."""
    monkeypatch.setattr("ong.curvature.sketch._NARROW", 20)
    monkeypatch.setattr("ong.curvature.sketch._TIMES", 3)


@pytest.mark.parametrize(
    ("columns", "rank", "wide"), [(1000, 10, False), (1001, 100, True), (1001, 101, False), (10**6, None, False)]
)
def test_layers_of_more_than_1000_columns_and_ten_times_the_rank_are_wide(
    columns: int, rank: int | None, wide: bool
) -> None:
    assert is_wide(columns, rank) == wide


@pytest.mark.parametrize(("decay", "tolerance"), [(0.3, 1e-6), (0.6, 2e-3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_leading_eigenpairs_are_those_of_the_covariance(decay: float, tolerance: float, dtype: torch.dtype) -> None:
    """Of eigenvalues that fall by a factor ``decay`` each, 18 random vectors for 6 of them."""
    x = rows(decay, dtype=dtype)
    covariance = x.double().T @ x.double()
    exact, vectors = (part.flip(-1)[..., :RANK] for part in torch.linalg.eigh(covariance))
    sketch = Sketch.of_rows(x, random_vectors(COLUMNS, RANK, seed=1))
    values, basis = sketch.leading(RANK, torch.finfo(dtype).eps)
    tolerance = max(tolerance, 1e3 * torch.finfo(dtype).eps / decay**RANK)
    torch.testing.assert_close(values, exact, rtol=tolerance, atol=0)
    assert (values <= exact * (1 + tolerance)).all()
    torch.testing.assert_close(basis.T @ basis, torch.eye(RANK, dtype=torch.float64), rtol=0, atol=1e-12)
    missed = covariance - basis @ (basis.T @ covariance)
    best = covariance - vectors @ (vectors.T @ covariance)
    assert torch.linalg.norm(missed) < (1 + 3 * tolerance) * torch.linalg.norm(best) + 1e-6 * exact[0]
    assert sketch.trace == pytest.approx(float(covariance.trace()), rel=1e-5)


def test_of_fewer_directions_than_the_rank_nothing_is_missed() -> None:
    x = rows(0.9, count=4)
    values, basis = Sketch.of_rows(x, random_vectors(COLUMNS, RANK, seed=1)).leading(RANK, 2e-16)
    torch.testing.assert_close((basis * values) @ basis.T, x.T @ x, rtol=0, atol=1e-10)
    assert values[4:].max() < 1e-10


def test_inputs_that_are_zero_have_zero_eigenvalues_and_an_orthonormal_basis() -> None:
    sketch = Sketch.of_rows(torch.zeros(5, COLUMNS), random_vectors(COLUMNS, RANK, seed=1))
    values, basis = sketch.leading(RANK, 1e-7)
    assert values.max() < 1e-100  # the shift's rounding
    torch.testing.assert_close(basis.T @ basis, torch.eye(RANK, dtype=torch.float64), rtol=0, atol=1e-12)


def wide_net() -> nn.Sequential:
    return mlp(30, 24, 3)


def task(seed: int, examples: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scales = 0.7 ** torch.randperm(30, generator=generator)
    x = torch.randn(examples, 30, generator=generator, dtype=torch.float64) * scales
    return x, torch.randint(0, 3, (examples,), generator=generator)


def eigen(ekfac: EKFAC, name: str) -> EigenBlock:
    block = ekfac.blocks[name]
    assert isinstance(block, EigenBlock)
    return block


@pytest.mark.usefixtures("narrow")
def test_eigenvalues_are_the_exact_fishers_in_the_sketched_basis_and_the_trace_is_its() -> None:
    model, (x, y) = wide_net(), task(0)
    thin = EKFAC.fit(model, [(x, y)], fisher="exact", rank=5)
    matrix = fisher(jacobian(model, x), model(x))
    exact = diagonal_blocks(matrix, find_blocks(model))
    for name in ("0", "2"):
        block = eigen(thin, name)
        assert block.others > 0
        basis = torch.kron(block.outputs_basis, block.inputs_basis)
        diagonal = (basis.T @ exact[name] @ basis).diagonal().reshape(block.shape[0], -1)
        torch.testing.assert_close(block.eigenvalues, diagonal, rtol=1e-9, atol=1e-14)
    assert thin.trace() == pytest.approx(float(matrix.trace()), rel=1e-12)


@pytest.mark.usefixtures("narrow")
def test_merging_sketches_the_sum_of_both_covariances_and_keeps_the_trace() -> None:
    model, thin, total = wide_net(), EKFAC(5), 0.0
    covariance = torch.zeros(31, 31, dtype=torch.float64)
    for seed, decay in ((0, 1.0), (1, 0.5), (2, 1.0)):
        x, y = task(seed)
        before = eigen(thin, "0").inputs_cov if seed else covariance
        a = torch.cat([x, torch.ones(len(x), 1, dtype=torch.float64)], 1)
        thin.add(model, [(x, y)], fisher="exact", decay=decay)
        total = decay * total + float(fisher(jacobian(model, x), model(x)).trace())
        exact = torch.linalg.eigvalsh(decay * before + a.T @ a / len(a)).flip(0)
        block = eigen(thin, "0")
        torch.testing.assert_close(block.inputs_values, exact[:5], rtol=0.15, atol=0)  # fifteen random vectors for five
        assert block.inputs_cov.trace() == pytest.approx(float(exact.sum()), rel=1e-12)
        assert thin.trace() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("fisher_type", ["logit", "rademacher"])
def test_the_metrics_inverse_is_that_of_the_exact_basis_to_a_tenth(
    fisher_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A convolution of 1,152 columns with random weights, two tasks, rank 30, gradients that F was not taken from.

    Eigenvalues of A past the thirtieth are many and alike here; on trained nets at rank 100 it is 3 to 4 %.
    """
    layers = (
        nn.Conv2d(3, 128, 3, 2, 1), nn.ReLU(), nn.Conv2d(128, 32, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5)
    )  # fmt: skip
    model = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0), torch.float32)
    blocks, generator = find_blocks(model), torch.Generator().manual_seed(1)
    coarse = torch.randn(3, 64, 3, 4, 4, generator=generator)
    images = [nn.functional.interpolate(part, size=(8, 8), mode="bilinear") for part in coarse]
    found = []
    for limit in (1000, 10**6):
        monkeypatch.setattr("ong.curvature.sketch._NARROW", limit)
        ekfac = EKFAC(30)
        for x in images[:2]:
            ekfac.add(model, [(x, torch.arange(64) % 5)], fisher=fisher_type)  # type: ignore[arg-type]
        model.zero_grad()
        nn.functional.cross_entropy(model(images[2]), torch.arange(64) % 5).backward()
        damping = float(eigen(ekfac, "2").eigenvalues.max()) / 100
        found.append(Metric(ekfac, blocks, damping).precondition({"2": blocks["2"].gradient()})["2"])
    gradient = blocks["2"].gradient()
    assert torch.dist(found[1], gradient) > 0.3 * torch.linalg.norm(gradient)  # the metric matters here
    assert torch.dist(*found) < 0.1 * torch.linalg.norm(found[1])


@pytest.mark.usefixtures("narrow")
def test_the_sketchs_random_vectors_leave_the_cotangents_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces of random Fishers depend on the cotangents alone, and the generator ends where it would."""
    model, (x, y) = wide_net(), task(0)
    traces, states = [], []
    for limit in (20, 1000):
        monkeypatch.setattr("ong.curvature.sketch._NARROW", limit)
        generator = torch.Generator().manual_seed(5)
        traces.append(EKFAC.fit(model, [(x, y)], rank=5, generator=generator).trace())
        states.append(generator.get_state())
    assert traces[0] == pytest.approx(traces[1], rel=1e-12)
    assert torch.equal(*states)


def test_no_matrix_of_columns_times_columns_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor of a layer of 3,000 columns is one of its sketch, [columns, 3·rank]."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = function(*args, **(kwargs or {}))
            parts = result if isinstance(result, tuple | list) else (result,)
            self.numbers = max([self.numbers, *(part.numel() for part in parts if isinstance(part, Tensor))])
            return result

    model = mlp(2999, 4, 3, dtype=torch.float32)
    x = torch.randn(20, 2999, generator=torch.Generator().manual_seed(0))
    with Largest() as seen:
        for _ in pairwise(range(3)):
            ekfac = EKFAC.fit(model, [(x,)], fisher="logit", rank=10)
            Metric(ekfac, find_blocks(model), 0.1).precondition({n: b.values() for n, b in find_blocks(model).items()})
    assert seen.numbers == 3000 * 30
