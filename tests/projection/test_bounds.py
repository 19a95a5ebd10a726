"""A memory kept within bounds, against dense projections."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from nets import flat, mlp, unflat
from torch import Tensor, nn

from ong.curvature import find_blocks
from ong.projection import (
    Bounds,
    DirectionMemory,
    EuclideanProjection,
    FactoredRows,
    collect_directions,
    pivoted_cholesky,
)

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


@pytest.mark.parametrize("count", [1, 7, 19])
def test_projection_after_selection_is_that_off_the_directions_kept(count: int) -> None:
    model, memory, directions = filled()
    kept, captured = Bounds(max_directions=count).apply(memory)
    pivots = pivoted_cholesky(memory.gram(), count)
    basis = scipy.linalg.orth(directions[:, pivots.order.tolist()])
    v = random_vector(model)
    w = flat(v, find_blocks(model)).numpy()
    found = flat(EuclideanProjection(kept)(v), find_blocks(model)).numpy()
    np.testing.assert_allclose(found, w - basis @ (basis.T @ w), atol=1e-8)  # the Gram squares the condition, 1e3
    assert captured == pytest.approx(pivots.captured(count), abs=1e-12)
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


@pytest.mark.parametrize("bounds", [{"max_directions": 0}, {"max_bytes": -1}])
def test_bounds_below_one_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(bounds))} must be at least 1, got"):
        Bounds(**bounds)
