"""The running EKFAC against the full one, explicit matrices, and what training really computed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import mlp, seeded
from torch import Tensor, nn

from ong.curvature import EKFAC, Factors, PassTape, RunningEKFAC, cotangents, find_blocks, record
from ong.curvature.eigenpairs import leading_eigenpairs
from ong.curvature.running import _squared_norms

DAMPING = 0.05


def data(examples: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(examples, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (examples,), generator=generator)


def factors_of(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Factors]:
    blocks = find_blocks(model)
    with record(blocks) as tape:
        logits = model(x)
    (u,) = cotangents(logits, "empirical", targets=y)
    return tape.factors(logits, u)


def decaying(examples: int, columns: int, rate: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = rate ** torch.arange(columns, dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64)).Q
    return torch.randn(examples, columns, generator=generator, dtype=torch.float64) * values @ basis.T


@pytest.mark.parametrize("threshold", [1e-1, 1e-3, 1e-5])
def test_leading_eigenpairs_are_those_of_the_covariance(threshold: float) -> None:
    x = decaying(300, 400, 0.8)
    values, vectors = torch.linalg.eigh(x.T @ x / len(x))
    found, basis = leading_eigenpairs(x, threshold)
    kept = int((values > threshold).sum())
    assert found.shape == (kept,)
    assert basis.shape == (400, kept)
    torch.testing.assert_close(found, values.flip(0)[:kept], rtol=1e-3, atol=0)
    torch.testing.assert_close(basis.T @ basis, torch.eye(kept, dtype=torch.float64), rtol=0, atol=1e-12)
    first = (vectors[:, -1] @ basis[:, 0]).abs()
    assert float(first) == pytest.approx(1, abs=1e-6)


def test_from_an_older_basis_one_iteration_follows_data_that_moved() -> None:
    old, new = decaying(300, 400, 0.8), decaying(300, 400, 0.8)
    new += 0.05 * decaying(300, 400, 0.8, seed=1)
    threshold = 1e-3
    start = leading_eigenpairs(old, threshold)[1]
    found, _basis = leading_eigenpairs(new, threshold, start)
    values = torch.linalg.eigvalsh(new.T @ new / len(new)).flip(0)
    assert (found <= values[: len(found)] * (1 + 1e-12)).all()  # Rayleigh–Ritz values come from below
    torch.testing.assert_close(found, values[: len(found)], rtol=0.15, atol=0)
    torch.testing.assert_close(found[:9], values[:9], rtol=1e-3, atol=0)
    assert abs(len(found) - int((values > threshold).sum())) <= 1


def test_a_tolerance_of_nothing_is_the_full_ekfac() -> None:
    model, (x, y) = mlp(6, 5, 3), data()
    blocks = find_blocks(model)
    running = RunningEKFAC(blocks, damping=DAMPING, window=40, tolerance=1e-12)
    for start in range(0, 40, 8):
        running.observe(factors_of(model, x[start : start + 8], y[start : start + 8]))
    running.refresh()
    full = EKFAC.fit(model, [(x, y)], fisher="empirical")
    vector = {name: torch.randn(block.shape, dtype=torch.float64) for name, block in blocks.items()}
    expected = full.apply(vector, damping=DAMPING)
    for name, part in running.precondition(vector).items():
        torch.testing.assert_close(part, DAMPING * expected[name], rtol=1e-8, atol=1e-10)


def wide(examples: int, seed: int) -> dict[str, Factors]:
    """Factors of a 300 × 20 block whose inputs have few directions that matter, independent of the cotangents."""
    a = decaying(examples, 300, 0.9)
    d = torch.randn(examples, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return {"0": Factors(a[:, None], d[:, None])}


def test_a_batch_counts_by_its_share_of_a_window_that_is_not_full_yet() -> None:
    blocks = find_blocks(nn.Sequential(nn.Linear(300, 20, bias=False, dtype=torch.float64)))
    running = RunningEKFAC(blocks, damping=DAMPING, window=1000)
    batch = wide(10, 0)
    running.observe(batch)
    running.refresh()
    before = running._leading["0"].eigenvalues.clone()
    running.observe({"0": Factors(batch["0"].inputs, 3 * batch["0"].outputs)})
    torch.testing.assert_close(running._leading["0"].eigenvalues, before * (1 + 9) / 2, rtol=1e-10, atol=1e-20)


@pytest.mark.parametrize("tolerance", [0.2, 0.05, 0.01])
def test_leaving_columns_out_costs_no_more_than_the_tolerance(tolerance: float) -> None:
    blocks = find_blocks(nn.Sequential(nn.Linear(300, 20, bias=False, dtype=torch.float64)))
    parts = wide(2000, 0)
    ranks = []
    inverse = []
    for epsilon in (tolerance, 1e-14):
        running = RunningEKFAC(blocks, damping=DAMPING, window=2000, tolerance=epsilon)
        running.observe(parts)
        running.refresh()
        ranks.append(running.ranks["0"])
        unit = torch.eye(300, dtype=torch.float64)
        inverse.append(torch.stack([running.precondition({"0": row.expand(20, 300)})["0"] for row in unit]))
    assert ranks[0] < 100
    assert ranks[1] > ranks[0]
    # M⁻¹ has norm 1; what is left out has the Kronecker estimate's sampling error on top
    assert float((inverse[0] - inverse[1]).norm(dim=2).max()) < 1.5 * tolerance


def test_the_step_is_what_the_docstring_says() -> None:
    blocks = find_blocks(nn.Sequential(nn.Linear(300, 20, bias=False, dtype=torch.float64)))
    running = RunningEKFAC(blocks, damping=DAMPING, window=500, tolerance=0.1)
    parts = wide(500, 0)
    running.observe(parts)
    running.refresh()
    a, d = parts["0"].inputs[:, 0], parts["0"].outputs[:, 0]
    rank = running.ranks["0"]
    left = torch.linalg.eigh(d.T @ d / 500).eigenvectors
    right = running._leading["0"].inputs_basis
    squares = ((d @ left).square().T @ (a @ right).square()) / 500
    trace = (d.square().sum(1) * a.square().sum(1)).mean()
    tau = (trace - squares.sum()) / (20 * (300 - rank))
    vector = torch.randn(20, 300, dtype=torch.float64)
    inside = left.T @ vector @ right
    outside = vector - left @ inside @ right.T
    expected = left @ (DAMPING / (squares + DAMPING) * inside) @ right.T + DAMPING / (tau + DAMPING) * outside
    torch.testing.assert_close(running.precondition({"0": vector})["0"], expected, rtol=1e-9, atol=1e-12)

    fresh = wide(50, 1)  # a tenth of the window moves the eigenvalues by a tenth
    running.observe(fresh)
    a, d = fresh["0"].inputs[:, 0], fresh["0"].outputs[:, 0]
    moved = 0.9 * squares + 0.1 * ((d @ left).square().T @ (a @ right).square()) / 50
    expected = left @ (DAMPING / (moved + DAMPING) * inside) @ right.T + DAMPING / (tau + DAMPING) * outside
    torch.testing.assert_close(running.precondition({"0": vector})["0"], expected, rtol=1e-9, atol=1e-12)


def test_the_window_holds_the_newest_examples_only() -> None:
    model, (x, y) = mlp(6, 5, 3), data(64)
    running = RunningEKFAC(find_blocks(model), damping=DAMPING, window=16, tolerance=1e-12)
    for start in range(0, 64, 8):
        running.observe(factors_of(model, x[start : start + 8], y[start : start + 8]))
    running.refresh()
    full = EKFAC.fit(model, [(x[-16:], y[-16:])], fisher="empirical")
    vector = {name: torch.randn(block.shape, dtype=torch.float64) for name, block in running.blocks.items()}
    expected = full.apply(vector, damping=DAMPING)
    for name, part in running.precondition(vector).items():
        torch.testing.assert_close(part, DAMPING * expected[name], rtol=1e-8, atol=1e-10)


def on_sequences() -> nn.Module:
    """A biased layer on sequences returns a view, which an activation in place takes out of the graph."""
    layers = nn.Unflatten(1, (2, 3)), nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)
    return seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0))


@pytest.mark.parametrize("net", [lambda: mlp(6, 5, 3), on_sequences], ids=["mlp", "in place on sequences"])
def test_the_pass_tape_reads_trainings_own_passes_and_no_others(net: Callable[[], nn.Module]) -> None:
    model, (x, y) = net(), data(12)
    expected = factors_of(model, x, y)
    tape = PassTape(find_blocks(model))
    model(x + 1).sum().backward()
    tape.open()
    loss = nn.functional.cross_entropy(model(x), y)
    tape.close()
    model(x - 1).sum().backward()
    loss.backward()
    found = tape.factors(12, scale=12)
    assert found.keys() == expected.keys()
    for name, part in found.items():
        torch.testing.assert_close(part.inputs, expected[name].inputs)
        torch.testing.assert_close(part.outputs, expected[name].outputs)


def test_numbers_out_of_range_and_diverged_layers_are_refused() -> None:
    model, (x, y) = mlp(6, 5, 3), data(12)
    blocks = find_blocks(model)
    for wrong in ({"damping": 0.0}, {"window": 0}, {"tolerance": 0.0}, {"tolerance": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            RunningEKFAC(blocks, **{"damping": DAMPING, **wrong})
    running = RunningEKFAC(blocks, damping=DAMPING)
    with pytest.raises(ValueError, match="at least one observed batch"):
        running.refresh()
    running.observe(factors_of(model, x / 0, y))
    with pytest.raises(ValueError, match="diverged"):
        running.refresh()


def test_batches_with_different_numbers_of_positions_share_a_window() -> None:
    blocks = find_blocks(nn.Sequential(nn.Linear(4, 3, bias=False, dtype=torch.float64)))
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 5, 1)
    batches = [
        Factors(
            torch.randn(6, t, 4, generator=generator, dtype=torch.float64),
            torch.randn(6, t, 3, generator=generator, dtype=torch.float64),
        )
        for t in sizes
    ]
    running = RunningEKFAC(blocks, damping=DAMPING, window=18, tolerance=1e-12)
    for batch in batches:
        running.observe({"0": batch})
    running.refresh()
    gradients = torch.cat([torch.einsum("nto,nti->noi", b.outputs, b.inputs) for b in batches])
    leading = running._leading["0"]
    turned = leading.outputs_basis.T @ gradients @ leading.inputs_basis
    torch.testing.assert_close(leading.eigenvalues, turned.square().mean(0))


def test_a_window_of_large_factors_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = mlp(6, 5, 3), data(64)
    monkeypatch.setattr("ong.curvature.running._MOST_NUMBERS", 2 * 8 * (7 + 5 + 6 + 3))  # two batches of eight
    running = RunningEKFAC(find_blocks(model), damping=DAMPING, window=40)
    for start in range(0, 64, 8):
        running.observe(factors_of(model, x[start : start + 8], y[start : start + 8]))
    assert len(running._recent) == 2


@pytest.mark.parametrize("chunk", [1, 2**23])
def test_squared_norms_are_those_of_the_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ong.curvature.running._CHUNK", chunk)
    for positions in (1, 2, 9):
        a = torch.randn(5, positions, 4, dtype=torch.float64)
        d = torch.randn(5, positions, 3, dtype=torch.float64)
        expected = torch.einsum("nto,nti->noi", d, a).square().sum((1, 2))
        torch.testing.assert_close(_squared_norms(Factors(a, d)), expected)
