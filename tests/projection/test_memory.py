"""The memory of directions and its projections against dense linear algebra."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import scipy.linalg
import torch
from nets import flat, jacobian, mlp, seeded, unflat, written_out
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ong.curvature import EKFAC, Block, Metric, find_blocks, inner
from ong.projection import (
    CombinedRows,
    DenseRows,
    DirectionMemory,
    EuclideanProjection,
    FactoredRows,
    ImageRows,
    LookupRows,
    MetricProjection,
    collect_directions,
)
from ong.projection.derived import StackedRows

DAMPING = 0.1


class Own(nn.Module):
    """An embedding, a parameter of its own and a layer on sequences, of which no two are kept alike."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scale = nn.Embedding(6, 9), nn.Parameter(torch.ones(9))
        self.layer, self.head = nn.Linear(9, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(self.scale * self.words(x))).mean(1))


def conv_net() -> nn.Module:
    layers = (
        nn.Conv2d(1, 2, 3),
        nn.GroupNorm(1, 2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(32, 4),
        nn.Tanh(),
        nn.Linear(4, 3),
    )
    return nn.Sequential(*layers)


def examples(count: int, *shape: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (count,), generator=generator)


def batch(case: str, count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    if case == "own":
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 6, (count, 2), generator=generator), examples(count, seed=seed)[1]
    return examples(count, *{"mlp": (7,), "cnn": (1, 6, 6)}[case], seed=seed)


MODELS = {"mlp": lambda: mlp(7, 6, 5, 3), "cnn": conv_net, "own": Own}


@dataclass
class Filled:
    """A memory of two tasks (gtl, then all), and the same directions as a dense ``[parameters, M]`` matrix."""

    model: nn.Module
    blocks: dict[str, Block]
    memory: DirectionMemory
    dense: Tensor

    def metric(self, case: str, rank: int | None) -> tuple[Metric, Tensor]:
        """M, and the same as a dense matrix."""
        ekfac = EKFAC(rank)
        ekfac.add(self.model, [batch(case, 20, seed=3)], blocks=self.blocks)
        ekfac.add(self.model, [batch(case, 20, seed=4)], blocks=self.blocks)
        whole = torch.block_diag(*(written_out(ekfac.blocks[name]) for name in self.blocks)) / DAMPING
        whole.diagonal().add_(1)
        return Metric(ekfac, self.blocks, DAMPING), whole

    def vector(self, seed: int = 5) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return unflat(torch.randn(len(self.dense), generator=generator, dtype=torch.float64), self.blocks)

    def part(self, names: list[str]) -> Tensor:
        """Which entries of a flat vector belong to some blocks."""
        return torch.cat([torch.full((b.shape[0] * b.shape[1],), name in names) for name, b in self.blocks.items()])


def filled(case: str) -> Filled:
    model = seeded(MODELS[case](), torch.Generator().manual_seed(0))
    blocks = find_blocks(model)
    (x, y), (x2, y2) = batch(case, 6), batch(case, 3, seed=2)
    memory = DirectionMemory()
    memory.extend(collect_directions(model, (x, y), kind="gtl", blocks=blocks), blocks)
    memory.gram()  # worked out in between, to be continued
    memory.extend(collect_directions(model, (x2, y2), kind="all", blocks=blocks), blocks)
    first, second = jacobian(model, x, blocks), jacobian(model, x2, blocks)
    dense = torch.cat([first[torch.arange(6), y], second.transpose(0, 1).flatten(0, 1)]).T
    return Filled(model, blocks, memory, dense)


def dense_projection(g: Tensor, directions: Tensor, metric: Tensor | None = None) -> Tensor:
    """The KKT system of min −gᵀv + ½vᵀMv subject to Gᵀv = 0, solved densely."""
    size = len(g)
    m = torch.eye(size, dtype=torch.float64) if metric is None else metric
    basis = torch.from_numpy(scipy.linalg.orth(directions.numpy(), rcond=1e-8))
    count = basis.shape[1]
    none = torch.zeros(count, count, dtype=torch.float64)
    kkt = torch.cat([torch.cat([m, basis], 1), torch.cat([basis.T, none], 1)])
    return torch.linalg.solve(kkt, torch.cat([g, none[:, 0] if count else g[:0]]))[:size]


@pytest.mark.parametrize("case", MODELS)
def test_products_equal_the_dense_ones(case: str) -> None:
    it = filled(case)
    v, c = it.vector(), torch.linspace(-1, 1, 15, dtype=torch.float64)
    torch.testing.assert_close(it.memory.dot(v), it.dense.T @ flat(v, it.blocks))
    torch.testing.assert_close(flat(it.memory.combine(c), it.blocks), it.dense @ c)
    torch.testing.assert_close(it.memory.gram(), it.dense.T @ it.dense)


def test_blocks_are_kept_in_the_smaller_form() -> None:
    kinds = {case: {name: type(rows) for name, rows in filled(case).memory.rows.items()} for case in MODELS}
    assert kinds["mlp"] == dict.fromkeys("024", FactoredRows)
    assert kinds["cnn"] == {"0": DenseRows, "1": DenseRows, "4": FactoredRows, "6": FactoredRows}
    # two positions × (8 + 10) numbers against 8 × 10, two × (6 + 9) against 6 × 9
    assert kinds["own"] == {"scale": DenseRows, "words": LookupRows, "layer": FactoredRows, "head": FactoredRows}


@pytest.mark.parametrize("case", MODELS)
def test_projection_equals_the_dense_one(case: str) -> None:
    it = filled(case)
    v = it.vector()
    found = flat(EuclideanProjection(it.memory)(v), it.blocks)
    expected = dense_projection(flat(v, it.blocks), it.dense)
    # Gram route: squares the condition number of G (about 1e3 here), so 1e-10 relative
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.norm()))
    captured = float((flat(v, it.blocks) - expected).norm() / flat(v, it.blocks).norm())
    assert EuclideanProjection(it.memory).captured(v) == pytest.approx(captured, rel=1e-9)


def test_projection_off_the_span_agrees_with_sklearn() -> None:
    it = filled("mlp")
    v = it.vector()
    symmetric = torch.cat([it.dense, -it.dense], 1).T.numpy()  # mean zero, so that PCA's subspace is the span
    pca = PCA(n_components=int(np.linalg.matrix_rank(it.dense.numpy()))).fit(symmetric)
    residual = flat(v, it.blocks).numpy()
    residual = residual - pca.inverse_transform(pca.transform(residual[None]))[0]
    np.testing.assert_allclose(flat(EuclideanProjection(it.memory)(v), it.blocks).numpy(), residual, atol=1e-8)


@pytest.mark.parametrize("chunk", [1, 200, 2**22])
@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize("case", MODELS)
def test_the_gram_in_a_metric_is_the_dense_one(
    case: str, rank: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Factors and dense rows, under thin and diagonal operators, all at once and in parts."""
    monkeypatch.setattr("ong.projection.images._CHUNK", chunk)
    it = filled(case)
    metric, m = it.metric(case, rank)
    expected = it.dense.T @ torch.linalg.solve(m, it.dense)
    torch.testing.assert_close(it.memory.gram_in(metric), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(it.memory.gram(), it.dense.T @ it.dense, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize("case", MODELS)
def test_metric_projection_solves_its_constrained_problem(case: str, rank: int | None) -> None:
    it = filled(case)
    metric, m = it.metric(case, rank)
    g = it.vector()
    projection = MetricProjection(it.memory, metric)
    found = flat(projection(g), it.blocks)
    torch.testing.assert_close(found, dense_projection(flat(g, it.blocks), it.dense, m), rtol=1e-7, atol=1e-8)
    assert (it.dense.T @ found).abs().max() < 1e-10
    descent = float(flat(g, it.blocks) @ found)
    assert descent == pytest.approx(float(found @ m @ found), rel=1e-9)
    assert descent > 0
    assert projection.solver is not None
    assert projection.solver.rank == np.linalg.matrix_rank(it.dense.numpy())


MOVING = {"mlp": ["2", "4"], "cnn": ["0", "6"], "own": ["scale", "layer"]}


@pytest.mark.parametrize("case", MODELS)
def test_a_step_of_some_layers_is_projected_off_what_the_directions_have_there(case: str) -> None:
    it = filled(case)
    moving = it.part(MOVING[case])
    g = {name: part for name, part in it.vector().items() if name in MOVING[case]}
    blocks = {name: block for name, block in it.blocks.items() if name in g}
    found = EuclideanProjection(it.memory)(g)
    expected = dense_projection(flat(g, blocks), it.dense[moving])
    torch.testing.assert_close(flat(found, blocks), expected, rtol=0, atol=1e-8)
    captured = float((flat(g, blocks) - expected).norm() / flat(g, blocks).norm())
    assert EuclideanProjection(it.memory).captured(g) == pytest.approx(captured, rel=1e-8)
    assert EuclideanProjection(it.memory).captured(found) < 1e-8

    metric, m = it.metric(case, 3)
    expected = dense_projection(flat(g, blocks), it.dense[moving], m[moving][:, moving])
    found = MetricProjection(it.memory, metric)(g)
    assert found.keys() == g.keys()
    torch.testing.assert_close(flat(found, blocks), expected, rtol=1e-7, atol=1e-8)


def test_layers_without_directions_keep_their_gradient() -> None:
    it = filled("mlp")
    metric, _ = it.metric("mlp", 3)
    memory = it.memory.restricted(["0"])
    g = it.vector()
    assert torch.equal(EuclideanProjection(memory)(g)["2"], g["2"])
    assert EuclideanProjection(memory)({"2": g["2"]})["2"] is g["2"]
    assert EuclideanProjection(memory).captured({"2": g["2"]}) == 0
    assert torch.equal(MetricProjection(memory, metric)(g)["2"], metric.precondition(g)["2"])


def test_directions_of_layers_that_the_metric_lacks_do_not_count() -> None:
    it = filled("mlp")
    blocks = {name: it.blocks[name] for name in ("0", "2")}
    metric = Metric(EKFAC.fit(it.model, [batch("mlp", 20)]), blocks, DAMPING)
    g = {name: it.vector()[name] for name in blocks}
    found = MetricProjection(it.memory, metric)(g)
    assert it.memory.restricted(blocks).dot(found).abs().max() < 1e-10


def test_float32_is_close_to_the_dense_projection() -> None:
    model = mlp(50, 40, 30, 10, dtype=torch.float32)
    blocks = find_blocks(model)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 50, generator=generator), torch.randint(0, 10, (120,), generator=generator)
    memory = DirectionMemory(collect_directions(model, (x, y), blocks=blocks))
    v = unflat(torch.randn(sum(p.numel() for p in model.parameters()), generator=generator), blocks)
    every = torch.arange(120)
    matrix = flat({name: rows.dense(every) for name, rows in memory.rows.items()}, blocks)
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


@pytest.mark.parametrize("damping", [None, DAMPING])
@pytest.mark.parametrize("case", MODELS)
def test_images_of_directions_are_the_metrics_and_project_as_such(case: str, damping: float | None) -> None:
    it = filled(case)
    ekfac = EKFAC.fit(it.model, [batch(case, 20, seed=3)], rank=3)
    images = DirectionMemory(
        {
            name: ImageRows(rows, ekfac.block_like(name, it.blocks[name]), damping)
            for name, rows in it.memory.rows.items()
        }
    )
    f = torch.block_diag(*(written_out(ekfac.blocks[name]) for name in it.blocks))
    columns = f @ it.dense
    if damping is not None:
        columns = damping * torch.linalg.solve(f + damping * torch.eye(len(f), dtype=f.dtype), it.dense)
    v, c = it.vector(), torch.linspace(-1, 1, 15, dtype=torch.float64)
    torch.testing.assert_close(images.dot(v), columns.T @ flat(v, it.blocks))
    torch.testing.assert_close(flat(images.combine(c), it.blocks), columns @ c)
    torch.testing.assert_close(images.gram(), columns.T @ columns)
    metric, m = it.metric(case, 3)
    expected = columns.T @ torch.linalg.solve(m, columns)
    torch.testing.assert_close(images.gram_in(metric), expected, rtol=1e-9, atol=1e-12)


def test_combinations_stand_beside_gradients_and_images() -> None:
    """What tasks of different methods would leave: each part keeps its kind, and the whole is one G."""
    it = filled("mlp")
    weights = torch.randn(15, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ekfac = EKFAC.fit(it.model, [batch("mlp", 20, seed=3)])
    memory = DirectionMemory(dict(it.memory.rows))
    memory.gram()
    memory.extend({name: CombinedRows(rows, weights) for name, rows in it.memory.rows.items()}, it.blocks)
    images = {n: ImageRows(rows, ekfac.block_like(n, it.blocks[n]), None) for n, rows in it.memory.rows.items()}
    memory.extend(images, it.blocks)
    memory.extend(it.memory.rows, it.blocks)
    f = torch.block_diag(*(written_out(ekfac.blocks[name]) for name in it.blocks))
    columns = torch.cat([it.dense, it.dense @ weights, f @ it.dense, it.dense], 1)
    assert len(memory) == 49
    torch.testing.assert_close(memory.dot(it.vector()), columns.T @ flat(it.vector(), it.blocks))
    torch.testing.assert_close(memory.gram(), columns.T @ columns)
    chosen = memory.select(torch.tensor([30, 2, 17]))
    torch.testing.assert_close(chosen.gram(), columns[:, [2, 17, 30]].T @ columns[:, [2, 17, 30]])
    metric, m = it.metric("mlp", 3)
    v = flat(MetricProjection(chosen, metric)(it.vector()), it.blocks)
    expected = dense_projection(flat(it.vector(), it.blocks), columns[:, [2, 17, 30]], m)
    torch.testing.assert_close(v, expected, rtol=1e-7, atol=1e-8)


def test_a_grown_head_has_zero_directions_on_its_new_rows() -> None:
    model = mlp(7, 5, 3)
    blocks = find_blocks(model)
    memory = DirectionMemory(collect_directions(model, examples(4, 7), blocks=blocks))
    gram = memory.gram().clone()
    grown = seeded(nn.Sequential(model[0], nn.Tanh(), nn.Linear(5, 6)), torch.Generator().manual_seed(0))
    larger = find_blocks(grown)
    memory.extend(collect_directions(grown, examples(2, 7, seed=3), blocks=larger), larger)
    v = {"0": torch.zeros(5, 8, dtype=torch.float64), "2": torch.ones(6, 6, dtype=torch.float64)}
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
    v = {name: torch.full(b.shape, float(name.startswith("b")), dtype=torch.float64) for name, b in blocks.items()}
    assert not memory.dot(v)[:4].any()
    assert memory.dot(v)[4:].all()


def test_directions_of_a_frozen_layer_wait_until_it_moves_again() -> None:
    it = filled("mlp")
    before = it.memory.dot(it.vector())
    it.model[0].requires_grad_(False)
    frozen = find_blocks(it.model)
    it.memory.fit_to(frozen)
    it.memory.extend(collect_directions(it.model, batch("mlp", 3, seed=7), blocks=frozen), frozen)
    g = {name: part for name, part in it.vector().items() if name != "0"}
    assert it.memory.restricted(g).dot(EuclideanProjection(it.memory)(g)).abs().max() < 1e-10
    it.model[0].requires_grad_(True)
    it.memory.fit_to(find_blocks(it.model))
    torch.testing.assert_close(it.memory.dot(it.vector())[:15], before)
    only_first = {name: part if name == "0" else torch.zeros_like(part) for name, part in it.vector().items()}
    assert not it.memory.dot(only_first)[15:].any()  # stored while layer 0 stood still


def test_freezing_a_part_of_a_layer_after_storing_is_refused() -> None:
    it = filled("mlp")
    it.model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"layer '0' had 6 × 8 .* has 6 × 1 now; freeze a layer as a whole"):
        it.memory.fit_to(find_blocks(it.model))


class Twice(nn.Module):
    """A layer that is used once or twice: its factors have one or two positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.head, self.twice = nn.Linear(width, width), nn.Linear(width, 3), False

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(x))
        return self.head(torch.tanh(self.layer(h)) if self.twice else h)


@pytest.mark.parametrize(
    ("width", "kind", "numbers"),
    [
        (9, FactoredRows, 12 * 2 * (9 + 10)),  # of two positions fewer than 9 * 10, so that all are padded to two
        (3, StackedRows, 4 * (3 + 4) + 4 * 12 + 4 * (3 + 4)),  # 2 * (3 + 4) > 12
    ],
)
def test_directions_of_other_numbers_of_positions_lie_in_one_tensor_or_below_each_other(
    width: int, kind: type, numbers: int
) -> None:
    model = seeded(Twice(width), torch.Generator().manual_seed(0))
    blocks = find_blocks(model)
    x, y = examples(4, width)
    memory, columns = DirectionMemory(), []
    for twice in (False, True, False):
        model.twice = twice
        memory.extend(collect_directions(model, (x, y), blocks=blocks), blocks)
        columns.append(jacobian(model, x, blocks)[torch.arange(4), y].T)
    assert isinstance(memory.rows["layer"], kind)
    assert memory.rows["layer"].bytes == 8 * numbers
    dense = torch.cat(columns, 1)
    torch.testing.assert_close(memory.gram(), dense.T @ dense, rtol=1e-10, atol=1e-12)
    v = torch.randn(len(dense), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(memory.dot(unflat(v, blocks)), dense.T @ v, rtol=1e-10, atol=1e-12)
    ekfac = EKFAC.fit(model, [(x, y)], rank=2, blocks=blocks)
    m = torch.block_diag(*(written_out(ekfac.blocks[name]) for name in blocks)) / DAMPING
    m += torch.eye(len(m), dtype=m.dtype)
    expected = dense.T @ torch.linalg.solve(m, dense)
    torch.testing.assert_close(memory.gram_in(Metric(ekfac, blocks, DAMPING)), expected, rtol=1e-9, atol=1e-12)


def test_factors_take_a_fraction_of_the_dense_memory() -> None:
    model = mlp(784, 100, 100, 10, dtype=torch.float32)
    blocks = find_blocks(model)
    x, y = torch.randn(5, 784, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    memory = DirectionMemory(collect_directions(model, (x, y), blocks=blocks))
    assert memory.bytes == 5 * 4 * (785 + 100 + 101 + 100 + 101 + 10)  # 1,197 numbers in place of 89,610


@pytest.mark.parametrize("case", MODELS)
def test_state_goes_round_exactly(case: str) -> None:
    it = filled(case)
    copy = DirectionMemory.from_state_dict(it.memory.state_dict())
    assert torch.equal(copy.dot(it.vector()), it.memory.dot(it.vector()))
    assert torch.equal(copy.gram(), it.memory.gram())
    assert copy.bytes == it.memory.bytes


def test_an_empty_memory_projects_nothing() -> None:
    blocks = find_blocks(mlp(7, 5, 3))
    v = {name: block.values() for name, block in blocks.items()}
    assert EuclideanProjection(DirectionMemory())(v) == v
    assert EuclideanProjection(DirectionMemory()).captured(v) == 0
    projection = MetricProjection(DirectionMemory(), Metric(EKFAC(), blocks, 0.1))
    assert projection.solver is None
    assert inner(projection(v), v) == pytest.approx(float(inner(v, v)), rel=1e-12)  # M = I where F is 0


def test_blocks_must_hold_the_same_number_of_directions() -> None:
    rows = {name: DenseRows(torch.zeros(count, 1, 1)) for name, count in (("a", 2), ("b", 3))}
    with pytest.raises(ValueError, match=r"all blocks must hold the same number of directions, got \[2, 3\]"):
        DirectionMemory(rows)
