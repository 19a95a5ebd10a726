"""The cut pseudo-inverse of a Gram matrix, and which directions are the most independent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ong.projection import GramSolver, pivoted_cholesky

LENGTHS = torch.tensor([1.0, 2.0, 5.0, 0.1, 1.0, 3.0], dtype=torch.float64)


def near_collinear(spread: float) -> Tensor:
    """Six unit directions that differ by a spread."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 30, generator=generator, dtype=torch.float64)
    noise = torch.randn(6, 30, generator=generator, dtype=torch.float64)
    return torch.nn.functional.normalize(common + spread * noise, dim=1)


@pytest.mark.parametrize("spread", [1.0, 1e-1, 1e-2, 1e-4, 0.0], ids=lambda x: f"spread={x:g}")
def test_the_inverse_and_the_condition_are_numpys_with_the_same_cut(spread: float) -> None:
    """Well conditioned Grams are inverted by Cholesky, others by eigenvalues: both are the cut pseudo-inverse."""
    unit = near_collinear(spread)
    solver = GramSolver(LENGTHS[:, None] * (unit @ unit.T) * LENGTHS)
    values = np.linalg.eigvalsh((unit @ unit.T).numpy())
    kept = values[values > 1e-6 * values[-1]]
    inverse = np.linalg.pinv((unit @ unit.T).numpy(), rcond=1e-6, hermitian=True) / np.outer(LENGTHS, LENGTHS)
    # float64's 1e-16 times a condition of up to 1e6
    np.testing.assert_allclose(solver.inverse.numpy(), inverse, rtol=1e-8, atol=1e-8 * np.abs(inverse).max())
    assert solver.rank == len(kept)
    assert solver.condition == pytest.approx(kept[-1] / kept[0], rel=1e-7)
    right = torch.arange(1.0, 7, dtype=torch.float64)
    torch.testing.assert_close(solver.solve(right), solver.inverse @ right, rtol=1e-10, atol=0)


@pytest.mark.parametrize("spread", [1.0, 1e-2, 1e-3, 1e-5, 1e-9])
def test_projection_off_near_collinear_directions_leaves_none_of_those_kept(spread: float) -> None:
    """Gram-Schmidt in one pass leaves a leak of order one here."""
    unit = near_collinear(spread)
    directions = LENGTHS[:, None] * unit
    solver = GramSolver(directions @ directions.T)
    v = torch.randn(30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    projected = v - directions.T @ solver.solve(directions @ v)
    # a direction that is cut has eigenvalues below 1e-6 of six, so at most its root off the span kept: √6e-6
    assert (unit @ projected).abs().max() < 3e-3 * v.norm()
    values, vectors = torch.linalg.eigh(unit @ unit.T)
    kept = vectors[:, values > 1e-6 * values[-1]].T @ unit
    assert (torch.linalg.qr(kept.T).Q.T @ projected).norm() < 1e-8 * v.norm()  # 1e-16 times a condition of 1e6


def test_float32_right_hand_sides_are_solved_in_float64() -> None:
    unit = near_collinear(1e-2)
    solver = GramSolver(unit @ unit.T)
    right = unit @ torch.ones(30, dtype=torch.float64)
    found = solver.solve(right.float())
    assert found.dtype == torch.float32
    # the input's rounding is 6e-8 of a right side of about 5, times an inverse of norm about 1e3
    torch.testing.assert_close(found.double(), solver.solve(right.float().double()), rtol=1e-6, atol=0)


def test_the_rank_cut_does_not_depend_on_how_long_directions_are() -> None:
    directions = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scaled = torch.tensor([1.0, 1e-6, 1e3], dtype=torch.float64)[:, None] * directions
    assert GramSolver(scaled @ scaled.T).rank == 3


def test_a_zero_direction_is_harmless_and_never_chosen() -> None:
    solver = GramSolver(torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64)))
    assert solver.rank == 1
    torch.testing.assert_close(solver.solve(torch.tensor([4.0, 1.0])), torch.tensor([2.0, 0.0]))
    pivots = pivoted_cholesky(torch.diag(torch.tensor([0.0, 4.0, 1.0], dtype=torch.float64)), 3)
    assert pivots.order.tolist() == [1, 2]
    assert pivots.captured(2) == 1


def test_nothing_but_zeros_has_rank_nought() -> None:
    solver = GramSolver(torch.zeros(3, 3, dtype=torch.float64))
    assert solver.rank == 0
    assert solver.condition == 1
    assert not solver.solve(torch.ones(3)).any()


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
    directions = np.random.default_rng(0).standard_normal((40, 20)) * np.linspace(0.1, 3, 20)
    pivots = pivoted_cholesky(torch.from_numpy(directions.T @ directions), 12)
    order, left = greedy(directions, 12)
    assert pivots.order.tolist() == order
    # distances squared in float64, through a Gram: 1e-10 is far above its rounding
    np.testing.assert_allclose(pivots.left.numpy(), left, atol=1e-10)
    assert pivots.captured(12) == pytest.approx(1 - left[12] / 20, abs=1e-10)
