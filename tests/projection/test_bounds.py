"""A bounded memory against a dense greedy search, and projections over some of a network's blocks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from nets import flat, mlp, unflat
from torch import Tensor, nn

from ong.curvature import EKFAC, Metric, find_blocks
from ong.projection import (
    Bounds,
    DirectionMemory,
    EuclideanProjection,
    FactoredRows,
    MetricProjection,
    NaturalRows,
    collect_directions,
    pivoted_cholesky,
)
from ong.projection.rows import DenseRows, StackedRows

WIDTH, CLASSES = 7, 3


def batch(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, WIDTH, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, CLASSES, (count,), generator=generator)


def filled(count: int = 20) -> tuple[nn.Module, DirectionMemory, np.ndarray]:
    """A memory of an MLP, and its directions as a dense [parameters, M] matrix."""
    model = mlp(WIDTH, 6, CLASSES)
    blocks = find_blocks(model)
    memory = DirectionMemory()
    memory.extend(collect_directions(model, batch(count), blocks=blocks), blocks)
    return model, memory, dense(model, memory)


def dense(model: nn.Module, memory: DirectionMemory) -> np.ndarray:
    units = torch.eye(len(memory), dtype=torch.float64)
    return torch.stack([flat(memory.combine(unit), find_blocks(model)) for unit in units], 1).numpy()


def random_vector(model: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    size = sum(p.numel() for p in model.parameters())
    vector = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return unflat(vector, find_blocks(model))


def greedy(directions: np.ndarray, count: int) -> tuple[list[int], list[float]]:
    """The oracle: the unit direction farthest from the span of those chosen, distances by QR at every step."""
    unit = directions / np.linalg.norm(directions, axis=0)
    chosen: list[int] = []
    left = [float(unit.shape[1])]
    for _ in range(count):
        basis = np.linalg.qr(unit[:, chosen])[0]
        distances = np.linalg.norm(unit - basis @ (basis.T @ unit), axis=0)
        distances[chosen] = 0
        chosen.append(int(distances.round(12).argmax()))  # the first of equals
        basis = np.linalg.qr(unit[:, chosen])[0]
        left.append(float(np.linalg.norm(unit - basis @ (basis.T @ unit)) ** 2))
    return chosen, left


def test_pivots_are_those_of_a_dense_greedy_search() -> None:
    _, memory, directions = filled()
    pivots = pivoted_cholesky(memory.gram(), 12)
    order, left = greedy(directions, 12)
    assert pivots.order.tolist() == order
    # distances squared in float64, through a Gram: 1e-10 is far above its rounding
    np.testing.assert_allclose(pivots.left.numpy(), left, atol=1e-10)
    assert pivots.captured(12) == pytest.approx(1 - left[12] / 20, abs=1e-10)


@pytest.mark.parametrize("count", [1, 7, 19])
def test_projection_after_selection_is_that_off_the_directions_kept(count: int) -> None:
    model, memory, directions = filled()
    kept, captured = Bounds(max_directions=count).apply(memory)
    order, left = greedy(directions, count)
    basis = scipy.linalg.orth(directions[:, sorted(order)])
    v = random_vector(model)
    w = flat(v, find_blocks(model)).numpy()
    found = flat(EuclideanProjection(kept)(v), find_blocks(model)).numpy()
    np.testing.assert_allclose(found, w - basis @ (basis.T @ w), atol=1e-8)  # the Gram squares the condition, 1e3
    assert captured == pytest.approx(1 - left[-1] / 20, abs=1e-10)
    assert all(isinstance(rows, FactoredRows) for rows in kept.rows.values())
    torch.testing.assert_close(kept.gram(), torch.from_numpy(dense(model, kept).T @ dense(model, kept)))


@pytest.mark.parametrize("count", [3, 10])
def test_what_an_update_moves_of_the_dropped_is_bounded_by_what_was_captured(count: int) -> None:
    model, memory, directions = filled()
    kept, captured = Bounds(max_directions=count).apply(memory)
    unit = directions / np.linalg.norm(directions, axis=0)
    for seed in range(20):
        v = flat(EuclideanProjection(kept)(random_vector(model, seed)), find_blocks(model)).numpy()
        motion = np.sqrt(np.mean((unit.T @ v) ** 2)) / np.linalg.norm(v)
        assert 0 < motion <= np.sqrt(1 - captured) + 1e-12


@pytest.mark.parametrize("limit", [192, 3000])
def test_bytes_are_kept_to_with_as_many_directions_as_fit(limit: int) -> None:
    _, memory, _ = filled()
    each = memory.bytes // len(memory)
    kept, _ = Bounds(max_bytes=limit).apply(memory)
    assert len(kept) == limit // each
    assert kept.bytes <= limit < kept.bytes + each


def test_within_the_bounds_nothing_changes() -> None:
    _, memory, _ = filled()
    kept, captured = Bounds(max_directions=20, max_bytes=memory.bytes).apply(memory)
    assert kept is memory
    assert captured == 1


def test_copies_of_a_direction_go_first_and_cost_nothing() -> None:
    model, memory, directions = filled(6)
    twice = DirectionMemory(dict(memory.rows))
    twice.extend(memory.rows, find_blocks(model))
    kept, captured = Bounds(max_directions=8).apply(twice)  # room for 8, but only 6 are independent
    assert len(kept) == 6
    assert captured == pytest.approx(1, abs=1e-9)
    span = scipy.linalg.subspace_angles(dense(model, kept), directions)
    assert span.max() < 1e-6


def test_a_zero_direction_is_never_chosen() -> None:
    gram = torch.diag(torch.tensor([0.0, 4.0, 1.0], dtype=torch.float64))
    pivots = pivoted_cholesky(gram, 3)
    assert pivots.order.tolist() == [1, 2]
    assert pivots.captured(2) == 1


@pytest.mark.parametrize("kind", ["dense", "natural", "stacked"])
def test_rows_of_every_kind_select(kind: str) -> None:
    model, memory, _ = filled(12)
    metric = Metric(EKFAC.fit(model, [batch(20)]), find_blocks(model), 0.1)
    rows = memory.rows["0"]
    assert isinstance(rows, FactoredRows)
    everything = torch.arange(12)
    natural = NaturalRows(rows.rotated(metric.blocks["0"]), metric.blocks["0"])
    kinds = {"dense": DenseRows(rows.dense(everything)), "natural": natural, "stacked": StackedRows([rows, natural])}
    chosen = torch.tensor([0, 3, 11] if kind != "stacked" else [1, 11, 12, 20])
    found = kinds[kind].select(chosen)
    torch.testing.assert_close(found.dense(torch.arange(len(chosen))), kinds[kind].dense(chosen))
    assert type(found) is type(kinds[kind])


def test_parts_of_which_nothing_is_left_are_gone() -> None:
    _, memory, _ = filled(12)
    rows = memory.rows["0"]
    assert isinstance(rows, FactoredRows)
    stacked = StackedRows([rows, DenseRows(rows.dense(torch.arange(12)))])
    assert isinstance(stacked.select(torch.tensor([0, 5])), FactoredRows)
    assert isinstance(stacked.select(torch.tensor([12, 15])), DenseRows)


@pytest.mark.parametrize("bounds", [{"max_directions": 0}, {"max_bytes": -1}])
def test_bounds_below_one_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bounds))} must be at least 1, got"):
        Bounds(**bounds)


class Twice(nn.Module):
    """A layer that is used once or twice: its factors have one or two positions."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head, self.twice = nn.Linear(9, 9), nn.Linear(9, CLASSES), False

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.layer(x))
        return self.head(torch.tanh(self.layer(h)) if self.twice else h)


def test_factors_with_other_numbers_of_positions_stand_beside_each_other() -> None:
    torch.manual_seed(0)
    model = Twice().double()
    blocks = find_blocks(model)
    x, y = torch.randn(4, 9, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    memory, parts = DirectionMemory(), []
    for twice in (True, False, True):
        model.twice = twice
        rows = collect_directions(model, (x, y), blocks=blocks)
        parts.append(dense(model, DirectionMemory(rows)))
        memory.extend(rows, blocks)
    np.testing.assert_allclose(dense(model, memory), np.concatenate(parts, 1), atol=1e-12)
    np.testing.assert_allclose(memory.gram().numpy(), dense(model, memory).T @ dense(model, memory), atol=1e-10)


def some_blocks(model: nn.Module) -> dict[str, Tensor]:
    vector = random_vector(model)
    del vector["0"]  # took no part in the step
    return vector


def test_a_step_of_some_layers_is_projected_off_what_the_directions_have_there() -> None:
    model, memory, directions = filled(5)
    v = EuclideanProjection(memory)(some_blocks(model))
    assert list(v) == ["2"]
    part = directions[6 * 8 :]  # the rows of layer 2
    basis = scipy.linalg.orth(part)
    w = some_blocks(model)["2"].flatten().numpy()
    np.testing.assert_allclose(v["2"].flatten().numpy(), w - basis @ (basis.T @ w), atol=1e-10)
    np.testing.assert_allclose(part.T @ v["2"].flatten().numpy(), 0, atol=1e-10)
    assert EuclideanProjection(memory).captured(v) < 1e-9


def test_a_step_of_some_layers_solves_its_constrained_problem_in_the_metric() -> None:
    """The KKT system over the layer that moves, solved densely."""
    model, memory, directions = filled(5)
    blocks = find_blocks(model)
    ekfac = EKFAC.fit(model, [batch(30)])
    g = some_blocks(model)
    found = MetricProjection(memory, Metric(ekfac, blocks, 0.1))(g)
    assert list(found) == ["2"]
    size = g["2"].numel()
    identity = torch.eye(size, dtype=torch.float64)
    fisher = torch.stack([ekfac.apply({"2": e.reshape(g["2"].shape)}, power=1)["2"].flatten() for e in identity])
    m = (identity + fisher / 0.1).numpy()
    basis = scipy.linalg.orth(directions[6 * 8 :])
    kkt = np.block([[m, basis], [basis.T, np.zeros((basis.shape[1], basis.shape[1]))]])
    expected = np.linalg.solve(kkt, np.concatenate([g["2"].flatten().numpy(), np.zeros(basis.shape[1])]))[:size]
    np.testing.assert_allclose(found["2"].flatten().numpy(), expected, atol=1e-9)


def test_directions_of_a_frozen_layer_wait_until_it_moves_again() -> None:
    model, memory, _ = filled(5)
    before = memory.dot(random_vector(model))
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    frozen = find_blocks(model)
    memory.fit_to(frozen)
    memory.extend(collect_directions(model, batch(3, seed=2), blocks=frozen), frozen)
    v = EuclideanProjection(memory)({"2": random_vector(mlp(WIDTH, 6, CLASSES))["2"]})
    assert memory.restricted({"2"}).dot(v).abs().max() < 1e-10
    for parameter in model[0].parameters():
        parameter.requires_grad_(True)
    memory.fit_to(find_blocks(model))
    torch.testing.assert_close(memory.dot(random_vector(model))[:5], before)
    only_head = random_vector(model) | {"2": torch.zeros(CLASSES, 7, dtype=torch.float64)}
    assert not memory.dot(only_head)[5:].any()  # stored while layer 0 stood still


def test_freezing_a_part_of_a_layer_after_storing_is_refused() -> None:
    model, memory, _ = filled(5)
    model[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"layer '0' had 6 × 8 .* has 6 × 1 now; freeze a layer as a whole"):
        memory.fit_to(find_blocks(model))
