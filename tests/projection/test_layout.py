"""Directions side by side multiply as the matrices they stand for."""

from __future__ import annotations

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
    leaves = coefficients.requires_grad_(), x.requires_grad_()
    z = layout.applied(coefficients, layout.kernel(x))
    torch.testing.assert_close(z, x @ together.T)
    by_coefficients, by_inputs = torch.autograd.grad(z, leaves, s)
    torch.testing.assert_close(by_coefficients, products)
    torch.testing.assert_close(by_inputs, s @ together)
