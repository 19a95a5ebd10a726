"""Directions side by side multiply as the matrices they stand for."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from ong.projection.layout import Layout

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
    torch.testing.assert_close(layout.dot_of_sum(s, kernel), products)
    z = torch.ones(6, ROWS, dtype=torch.float64)
    layout.add_applied(z, coefficients, kernel)
    torch.testing.assert_close(z, 1 + x @ together.T)
    by_inputs, found = layout.pulled_back(s, coefficients, kernel)
    torch.testing.assert_close(by_inputs, s @ together)
    torch.testing.assert_close(found, products)


def test_layouts_share_their_room_and_nothing_else() -> None:
    many = [parts(1, columns) for columns in (8, 11, 30)]
    coefficients = torch.linspace(-1, 1, M, dtype=torch.float64)

    def all_products() -> list[Tensor]:
        found = []
        for layout, _, x, s in many:
            found += [layout.dot(s.T @ x), layout.combine(coefficients), layout.dot_of_sum(s, layout.kernel(x))]
        return found

    expected = []
    for _, dense, x, s in many:
        products = torch.einsum("mrc,rc->m", dense, s.T @ x)
        expected += [products, torch.einsum("m,mrc->rc", coefficients, dense), products]
    torch.testing.assert_close(all_products(), expected)  # the last ones used the room of the first
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: [all_products() for _ in range(50)], range(8)):
            for products in found:
                torch.testing.assert_close(products, expected)
