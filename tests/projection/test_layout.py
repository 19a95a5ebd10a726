"""Directions side by side multiply as the matrices they stand for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ong.projection import FactoredRows
from ong.projection.layout import ByUnit, Layout

M, ROWS = 5, 7


def parts(positions: int, columns: int) -> tuple[Layout, Tensor, Tensor, Tensor]:
    """A layout, its G_m ``[M, rows, columns]``, inputs x with a last 1 and cotangents s of six examples."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs, outputs = draw(M, positions, columns), draw(M, positions, ROWS)
    x = torch.cat([draw(6, columns - 1), torch.ones(6, 1, dtype=torch.float64)], 1)
    return Layout(inputs, outputs), torch.einsum("mtr,mtc->mrc", outputs, inputs), x, draw(6, ROWS)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("columns", [8, 11])
def test_products_are_those_of_the_matrices(positions: int, columns: int) -> None:
    layout, dense, x, s = parts(positions, columns)
    coefficients = torch.randn(M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    together = torch.einsum("m,mrc->rc", coefficients, dense)
    torch.testing.assert_close(layout.combine(coefficients), together)
    gradient = s.T @ x
    products = torch.einsum("mrc,rc->m", dense, gradient)
    torch.testing.assert_close(layout.dot(gradient), products)

    kernel = layout.kernel(x)
    torch.testing.assert_close(layout.kernel(x[:, :-1]), kernel)
    leaves = coefficients.requires_grad_(), x.requires_grad_()
    z = layout.applied(coefficients, layout.kernel(x))
    torch.testing.assert_close(z, x @ together.T)
    by_coefficients, by_inputs = torch.autograd.grad(z, leaves, s)
    torch.testing.assert_close(by_coefficients, products)
    torch.testing.assert_close(by_inputs, s @ together)


def single_logits(units: list[int], columns: int = 4, rows: int = 3) -> FactoredRows:
    """Directions e_u aᵀ."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(len(units), 1, columns, generator=generator, dtype=torch.float64)
    return FactoredRows(inputs, torch.eye(rows, dtype=torch.float64)[units][:, None])


@pytest.mark.parametrize("units", [[2, 0, 0, 1, 2], [1, 0, 1], [0, 1, 2]])  # one logit of three may have none
def test_single_logits_side_by_side_multiply_as_their_matrices(units: list[int]) -> None:
    rows = single_logits(units)
    assert isinstance(rows.layout, ByUnit)
    dense = rows.dense(torch.arange(len(units)))
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    coefficients = torch.randn(len(units), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(rows.dot(gradient), torch.einsum("mrc,rc->m", dense, gradient))
    torch.testing.assert_close(rows.combine(coefficients), torch.einsum("m,mrc->rc", coefficients, dense))


def test_only_single_logits_that_are_spread_over_units_are_laid_out_by_unit() -> None:
    rows = single_logits([0, 1, 2, 0])
    scaled, wide = rows.outputs.clone(), rows.outputs.clone()
    scaled[0] *= 2
    wide[0] += torch.tensor([0, 1, -1])  # its sum is still 1
    several = FactoredRows(rows.inputs.reshape(2, 2, 4), rows.outputs.reshape(2, 2, 3))
    crowded = single_logits([4] * 50, rows=5)  # a unit's room is every unit's
    others = [FactoredRows(rows.inputs, scaled), FactoredRows(rows.inputs, wide), several, crowded, rows.tail(4)]
    assert [type(r.layout) for r in others] == [Layout] * 5
    assert isinstance(rows.layout, ByUnit)
