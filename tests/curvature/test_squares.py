"""Squares of gradients of many positions against gradients written out, in both ways of taking them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ong.curvature import Factors
from ong.curvature.squares import gradient_squares, rotated_squares


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(size: int, columns: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=9)).Q[:, :columns]


@pytest.mark.parametrize("chunk", [1, 2**25])
@pytest.mark.parametrize(
    ("positions", "rows", "columns", "rank"),
    [(1, 4, 6, 3), (3, 12, 40, 5), (3, 12, 40, 40), (50, 4, 6, 3), (50, 4, 6, 6)],
)
def test_they_are_those_of_the_gradients_written_out(
    chunk: int, positions: int, rows: int, columns: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few positions the factors are rotated, of many the gradients; one or all examples at a time."""
    monkeypatch.setattr("ong.curvature.squares._CHUNK", chunk)
    a, d = normal(7, positions, columns, seed=1), normal(7, positions, rows, seed=2)
    left, right = orthonormal(rows, rows), orthonormal(columns, rank)
    gradients = torch.einsum("ntr,ntc->nrc", d, a)
    squares, sums = rotated_squares(Factors(a, d), right, left)
    turned = torch.einsum("ri,nrc->nic", left, gradients)
    torch.testing.assert_close(squares, (turned @ right).square().sum(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sums, turned.square().sum((0, 2)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient_squares(Factors(a, d)), gradients.square().sum(0), rtol=1e-12, atol=1e-12)
