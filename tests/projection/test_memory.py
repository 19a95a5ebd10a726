"""The factored memory and its projections against dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from nets import flat, jacobian, mlp, seeded, unflat
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ong.curvature import EKFAC, Block, Metric, find_blocks, inner
from ong.errors import UnknownNameError
from ong.projection import (
    DirectionMemory,
    EuclideanProjection,
    FactoredRows,
    GramSolver,
    MetricProjection,
    NaturalRows,
    collect_directions,
)


def conv_net() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Tanh(), nn.Flatten(), nn.Linear(32, 4), nn.Tanh(), nn.Linear(4, 3)
    )
    return seeded(model, torch.Generator().manual_seed(0))


def examples(count: int, *shape: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(count, *shape, generator=generator, dtype=torch.float64),
        torch.randint(0, 3, (count,), generator=generator),
    )


CASES = {"mlp": (lambda: mlp(7, 6, 5, 3), (7,)), "cnn": (conv_net, (1, 6, 6))}


def filled(case: str) -> tuple[nn.Module, dict[str, Block], DirectionMemory, Tensor]:
    """A memory of two tasks (gtl, then all), and the same directions as a dense [parameters, M] matrix."""
    maker, shape = CASES[case]
    model = maker()
    blocks = find_blocks(model)
    (x, y), (x2, y2) = examples(6, *shape), examples(3, *shape, seed=2)
    memory = DirectionMemory()
    memory.extend(collect_directions(model, (x, y), kind="gtl", blocks=blocks), blocks)
    memory.gram()  # worked out in between, to be continued
    memory.extend(collect_directions(model, (x2, y2), kind="all", blocks=blocks), blocks)
    first, second = jacobian(model, x, blocks), jacobian(model, x2, blocks)
    dense = torch.cat([first[torch.arange(6), y], second.transpose(0, 1).flatten(0, 1)]).T
    return model, blocks, memory, dense


def random_vector(blocks: dict[str, Block], seed: int = 5) -> dict[str, Tensor]:
    size = sum(b.shape[0] * b.shape[1] for b in blocks.values())
    return unflat(torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), blocks)


@pytest.mark.parametrize("case", CASES)
def test_products_equal_the_dense_ones(case: str) -> None:
    _, blocks, memory, dense = filled(case)
    v = random_vector(blocks)
    c = torch.linspace(-1, 1, len(memory), dtype=torch.float64)
    torch.testing.assert_close(memory.dot(v), dense.T @ flat(v, blocks))
    torch.testing.assert_close(flat(memory.combine(c), blocks), dense @ c)
    torch.testing.assert_close(memory.gram(), dense.T @ dense)


@pytest.mark.parametrize("kind", ["ave", "loss"])
def test_kinds_of_direction_are_the_gradients_they_name(kind: str) -> None:
    model = mlp(7, 5, 3)
    blocks = find_blocks(model)
    x, y = examples(4, 7)
    memory = DirectionMemory(collect_directions(model, (x, y), kind=kind, blocks=blocks))
    for n in range(4):
        model.zero_grad()
        logits = model(x[n : n + 1])
        (logits.mean() if kind == "ave" else nn.functional.cross_entropy(logits, y[n : n + 1])).backward()
        gradient = {name: block.gradient() for name, block in blocks.items()}
        unit = torch.zeros(4, dtype=torch.float64)
        unit[n] = 1
        torch.testing.assert_close(flat(memory.combine(unit), blocks), flat(gradient, blocks))


@pytest.mark.parametrize("case", CASES)
def test_factored_projection_equals_the_dense_one(case: str) -> None:
    _, blocks, memory, dense = filled(case)
    v = random_vector(blocks)
    basis = scipy.linalg.orth(dense.numpy())
    expected = flat(v, blocks).numpy()
    expected = expected - basis @ (basis.T @ expected)
    found = flat(EuclideanProjection(memory)(v), blocks).numpy()
    # Gram route: squares the condition number of G (about 1e3 here), so 1e-10 relative
    np.testing.assert_allclose(found, expected, atol=1e-9 * np.linalg.norm(expected))


def test_projection_off_the_span_agrees_with_sklearn() -> None:
    _, blocks, memory, dense = filled("mlp")
    v = random_vector(blocks)
    symmetric = torch.cat([dense, -dense], 1).T.numpy()  # mean zero, so that PCA's subspace is the span
    pca = PCA(n_components=int(np.linalg.matrix_rank(dense.numpy()))).fit(symmetric)
    residual = flat(v, blocks).numpy()
    residual = residual - pca.inverse_transform(pca.transform(residual[None]))[0]
    np.testing.assert_allclose(flat(EuclideanProjection(memory)(v), blocks).numpy(), residual, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_metric_projection_solves_its_constrained_problem(case: str) -> None:
    """The KKT system of min −gᵀv + ½vᵀMv subject to Gᵀv = 0, solved densely."""
    model, blocks, memory, dense = filled(case)
    _, shape = CASES[case]
    ekfac = EKFAC.fit(model, [examples(20, *shape)])
    metric = Metric(ekfac, blocks, 0.1)
    g = random_vector(blocks)
    size = len(flat(g, blocks))
    identity = torch.eye(size, dtype=torch.float64)
    fisher = torch.stack([flat(ekfac.apply(unflat(e, blocks), power=1), blocks) for e in identity])
    m = identity + fisher / 0.1
    basis = torch.from_numpy(scipy.linalg.orth(dense.numpy()))
    count = basis.shape[1]
    kkt = torch.cat([torch.cat([m, basis], 1), torch.cat([basis.T, torch.zeros(count, count, dtype=torch.float64)], 1)])
    right = torch.cat([flat(g, blocks), torch.zeros(count, dtype=torch.float64)])
    expected = torch.linalg.solve(kkt, right)[:size]
    found = flat(MetricProjection(memory, metric)(g), blocks)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)


def test_in_a_metric_of_few_products_it_is_the_dense_projection_in_that_metric() -> None:
    model = mlp(60, 24, 3)
    blocks = find_blocks(model)
    x, y = examples(12, 60)
    memory = DirectionMemory()
    memory.extend(collect_directions(model, (x, y), kind="gtl", blocks=blocks), blocks)
    metric = Metric(EKFAC.fit(model, [examples(40, 60, seed=3)]), blocks, 0.1, tolerance=0.08, near=blocks)
    name = next(iter(blocks))
    terms = metric.blocks[name].terms
    assert terms is not None
    assert terms[0].shape[1] > 1
    rotated = memory.rotated(metric)
    rows = rotated.rows[name]
    assert isinstance(rows, FactoredRows)
    everything = torch.arange(len(rows))
    scaled = metric.blocks[name].scale * rows.dense(everything)
    torch.testing.assert_close(rows.scaled(terms).dense(everything), scaled)

    dense = jacobian(model, x, blocks)[torch.arange(12), y].T
    natural = torch.stack([flat(metric.precondition(unflat(g, blocks)), blocks) for g in dense.T], 1)
    gram = dense.T @ natural
    torch.testing.assert_close(rotated.gram_in(metric), gram)
    g = random_vector(blocks)
    plain = flat(metric.precondition(g), blocks)
    expected = plain - natural @ torch.linalg.solve(gram, natural.T @ flat(g, blocks))
    found = flat(MetricProjection(memory, metric)(g), blocks)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    assert (dense.T @ found).abs().max() < 1e-10


def test_blocks_beside_others_are_projected_as_they_are_together() -> None:
    _, blocks, memory, _ = filled("mlp")
    projection = EuclideanProjection(memory)
    g = random_vector(blocks)
    first, *others = blocks
    step = projection.coefficients({name: g[name] for name in others}, memory.rows[first].dot(g[first]))
    whole = projection(g)
    for name in blocks:
        torch.testing.assert_close(g[name] - memory.rows[name].combine(step), whole[name])


def test_blocks_beside_others_are_projected_in_a_metric_as_they_are_together() -> None:
    model, blocks, memory, _ = filled("mlp")
    metric = Metric(EKFAC.fit(model, [examples(20, 7)]), blocks, 0.1)
    projection = MetricProjection(memory, metric)
    g = random_vector(blocks)
    whole = projection(g)
    first, *others = blocks
    part = metric.precondition({first: g[first]})[first]
    found, step = projection.beside({name: g[name] for name in others}, memory.rows[first].dot(part))
    assert found.keys() == set(others)
    for name in others:
        torch.testing.assert_close(found[name], whole[name])
    alone = metric.precondition({first: g[first] - memory.rows[first].combine(step)})[first]
    torch.testing.assert_close(alone, whole[first])


def test_float32_is_close_to_the_dense_projection() -> None:
    model = mlp(50, 40, 30, 10, dtype=torch.float32)
    blocks = find_blocks(model)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 50, generator=generator), torch.randint(0, 10, (120,), generator=generator)
    memory = DirectionMemory(collect_directions(model, (x, y), blocks=blocks))
    v = unflat(torch.randn(sum(p.numel() for p in model.parameters()), generator=generator), blocks)
    dense = memory.dot(unflat(torch.zeros(3580), blocks))  # shape check of an all-zero vector
    assert not dense.any()
    matrix = torch.stack(
        [flat({n: r.dense(torch.tensor([m]))[0] for n, r in memory.rows.items()}, blocks) for m in range(120)]
    )
    q = torch.linalg.qr(matrix.double().T).Q
    expected = flat(v, blocks).double()
    expected = expected - q @ (q.T @ expected)
    found = flat(EuclideanProjection(memory)(v), blocks)
    assert torch.dist(found.double(), expected) <= 1e-5 * torch.linalg.norm(expected)


def test_collinear_directions_do_not_break_orthogonality() -> None:
    """The defect of single-pass Gram-Schmidt: nearly collinear gradients, float32."""
    model = mlp(20, 10, 3, dtype=torch.float32)
    blocks = find_blocks(model)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(1, 20, generator=generator)
    x = base + 1e-4 * torch.randn(40, 20, generator=generator)
    memory = DirectionMemory(collect_directions(model, (x, torch.zeros(40, dtype=torch.long)), blocks=blocks))
    projection = EuclideanProjection(memory)
    v = projection(unflat(torch.randn(243, generator=generator), blocks))
    assert projection.solver.rank < 40
    leak = memory.dot(v).abs().max() / memory.gram().diagonal().max().sqrt()
    assert leak < 1e-3  # the directions dropped are 1e-3 of the largest; what is kept is exact
    assert projection.captured(v) < 1e-4


def test_the_rank_cut_does_not_depend_on_how_long_directions_are() -> None:
    directions = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = torch.tensor([1.0, 1e-6, 1e3], dtype=torch.float64)[:, None] * directions
    assert GramSolver(scaled @ scaled.T).rank == 3


def test_a_zero_direction_is_harmless() -> None:
    gram = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    solver = GramSolver(gram)
    assert solver.rank == 1
    torch.testing.assert_close(solver.solve(torch.tensor([4.0, 1.0])), torch.tensor([2.0, 0.0]))


@pytest.mark.parametrize("spread", [1.0, 1e-1, 1e-2, 1e-4, 0.0], ids=lambda x: f"spread={x:g}")
def test_the_inverse_and_the_condition_are_numpys_with_the_same_cut(spread: float) -> None:
    """Well conditioned Grams are inverted by Cholesky, others by eigenvalues: both are the cut pseudo-inverse."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 30, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(
        common + spread * torch.randn(6, 30, generator=generator, dtype=torch.float64), dim=1
    )
    lengths = torch.tensor([1.0, 2.0, 5.0, 0.1, 1.0, 3.0], dtype=torch.float64)
    solver = GramSolver(lengths[:, None] * (unit @ unit.T) * lengths)
    values = np.linalg.eigvalsh((unit @ unit.T).numpy())
    kept = values[values > 1e-6 * values[-1]]
    expected = np.linalg.pinv((unit @ unit.T).numpy(), rcond=1e-6, hermitian=True) / np.outer(lengths, lengths)
    # float64's 1e-16 times a condition of up to 1e6
    np.testing.assert_allclose(solver.inverse.numpy(), expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())
    assert solver.rank == len(kept)
    assert solver.condition == pytest.approx(kept[-1] / kept[0], rel=1e-7)


@pytest.mark.parametrize(
    ("spread", "shortest", "single"), [(2.0, 1.0, True), (0.3, 1.0, False), (2.0, 1e-12, True), (2.0, 1e-25, False)]
)
def test_float32_is_solved_in_float32_only_where_the_condition_allows_it(
    spread: float, shortest: float, single: bool
) -> None:
    """What counts is the update, so solutions are compared in the norm of Gc."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 900, generator=generator, dtype=torch.float64)
    unit = common + spread * torch.randn(600, 900, generator=generator, dtype=torch.float64)
    lengths = torch.from_numpy(np.geomspace(1, shortest, 600))[:, None]
    directions = lengths * unit
    gram = directions @ directions.T
    solver = GramSolver(gram)
    assert (solver._single is not None) == single
    right = (directions @ torch.randn(900, generator=generator, dtype=torch.float64)).float()
    exact = unit.T @ torch.linalg.solve(unit @ unit.T, right.double() / lengths[:, 0])
    found = solver.solve(right)
    assert found.dtype == torch.float32
    assert (directions.T @ found.double() - exact).norm() < 3e-6 * exact.norm()
    again = GramSolver(gram).solve(right)
    assert torch.equal(found, again)  # a resumed run goes on to the bit


def test_a_gram_with_few_different_eigenvalues_is_solved_too() -> None:
    """From a vector of ones ARPACK finds two eigenpairs of it and gives up."""
    gram = torch.eye(600, dtype=torch.float64)
    gram[:300, :300] += 0.5
    right = torch.randn(600, generator=torch.Generator().manual_seed(0))
    exact = torch.linalg.solve(gram, right.double())
    assert (GramSolver(gram).solve(right) - exact).norm() < 1e-5 * exact.norm()


def test_captured_is_the_share_in_the_span() -> None:
    _, blocks, memory, dense = filled("mlp")
    v = random_vector(blocks)
    basis = scipy.linalg.orth(dense.numpy())
    w = flat(v, blocks).numpy()
    expected = np.linalg.norm(basis.T @ w) / np.linalg.norm(w)
    assert EuclideanProjection(memory).captured(v) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_natural_rows_are_preconditioned_gradients(case: str) -> None:
    model, blocks, memory, dense = filled(case)
    _, shape = CASES[case]
    metric = Metric(EKFAC.fit(model, [examples(20, *shape)]), blocks, 0.1)
    natural = DirectionMemory(
        {n: NaturalRows(rows.rotated(metric.blocks[n]), metric.blocks[n]) for n, rows in memory.rows.items()}
    )
    columns = torch.stack([flat(metric.precondition(unflat(c, blocks)), blocks) for c in dense.T], 1)
    v = random_vector(blocks)
    c = torch.linspace(-1, 1, len(memory), dtype=torch.float64)
    torch.testing.assert_close(natural.dot(v), columns.T @ flat(v, blocks))
    torch.testing.assert_close(flat(natural.combine(c), blocks), columns @ c)
    torch.testing.assert_close(natural.gram(), columns.T @ columns)


def test_a_grown_head_has_zero_directions_on_its_new_rows() -> None:
    model = mlp(7, 5, 3)
    blocks = find_blocks(model)
    memory = DirectionMemory(collect_directions(model, examples(4, 7), blocks=blocks))
    gram = memory.gram().clone()
    grown = seeded(nn.Sequential(model[0], nn.Tanh(), nn.Linear(5, 6)), torch.Generator().manual_seed(0))
    larger = find_blocks(grown)
    memory.extend(collect_directions(grown, examples(2, 7, seed=3), blocks=larger), larger)
    v = random_vector(larger)
    v["0"] = torch.zeros_like(v["0"])
    v["2"][:3] = 0  # lives on the new rows only
    assert not memory.dot(v)[:4].any()
    torch.testing.assert_close(memory.gram()[:4, :4], gram)


def test_blocks_that_some_directions_do_not_touch_are_zero_for_those() -> None:
    first, second = mlp(7, 5, 3), mlp(7, 5, 3, seed=1)
    both = nn.ModuleDict({"a": first, "b": second})
    blocks = find_blocks(both)
    x, y = examples(4, 7)
    memory = DirectionMemory()
    memory.extend(collect_directions(both, (x, y), blocks=blocks, forward=lambda batch: first(batch[0])), blocks)
    memory.extend(collect_directions(both, (x, y), blocks=blocks, forward=lambda batch: second(batch[0])), blocks)
    gram = memory.gram()
    assert not gram[:4, 4:].any()
    v = {n: p if n.startswith("b") else torch.zeros_like(p) for n, p in random_vector(blocks).items()}
    assert not memory.dot(v)[:4].any()
    assert memory.dot(v)[4:].all()


def test_factors_take_a_fraction_of_the_dense_memory() -> None:
    model = mlp(784, 100, 100, 10, dtype=torch.float32)
    blocks = find_blocks(model)
    x, y = torch.randn(5, 784, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    memory = DirectionMemory(collect_directions(model, (x, y), blocks=blocks))
    assert memory.bytes == 5 * 4 * (785 + 100 + 101 + 100 + 101 + 10)  # 1,197 numbers in place of 89,610


@pytest.mark.parametrize("case", CASES)
def test_state_goes_round_exactly(case: str) -> None:
    _, blocks, memory, _ = filled(case)
    copy = DirectionMemory.from_state_dict(memory.state_dict())
    v = random_vector(blocks)
    assert torch.equal(copy.dot(v), memory.dot(v))
    assert torch.equal(copy.gram(), memory.gram())


def test_an_empty_memory_projects_nothing() -> None:
    blocks = find_blocks(mlp(7, 5, 3))
    v = random_vector(blocks)
    assert EuclideanProjection(DirectionMemory())(v) == v
    assert EuclideanProjection(DirectionMemory()).captured(v) == 0
    metric = Metric(EKFAC(), blocks, 0.1)
    assert inner(MetricProjection(DirectionMemory(), metric)(v), v) == pytest.approx(float(inner(v, v)))


def test_an_unknown_kind_of_direction_is_refused_with_the_nearest() -> None:
    model = mlp(7, 5, 3)
    with pytest.raises(UnknownNameError, match="did you mean 'gtl'"):
        collect_directions(model, examples(2, 7), kind="glt", blocks=find_blocks(model))  # type: ignore[arg-type]
