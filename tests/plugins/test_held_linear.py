"""Passes through held layers are those of the layer they stand for, with their gradients and those of the gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ong.curvature import BlockMetric
from ong.plugins.coefficients import Coefficients
from ong.plugins.held_linear import Bases, HeldLinear
from ong.projection import FactoredRows

ROWS, COLUMNS = 3, 5  # a bias's among them


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def shifted() -> tuple[Coefficients, Tensor]:
    """Coefficients, and the matrix they stand for."""
    rows = FactoredRows(draw(4, 1, COLUMNS), draw(4, 1, ROWS))
    coefficients = Coefficients(rows)
    coefficients.values += draw(4)
    return coefficients, torch.einsum("m,mrc->rc", coefficients.values, rows.dense(torch.arange(4)))


def test_what_coefficients_add() -> None:
    coefficients, more = shifted()

    def added(x: Tensor) -> Tensor:
        return coefficients.shift(coefficients.layout.kernel(x))

    x = draw(6, COLUMNS - 1)
    torch.testing.assert_close(added(x).detach(), x @ more[:, :-1].T + more[:, -1])
    with torch.no_grad():
        torch.testing.assert_close(added(x), x @ more[:, :-1].T + more[:, -1])
    assert torch.autograd.gradcheck(added, x.requires_grad_())
    assert torch.autograd.gradgradcheck(added, x)


@pytest.mark.parametrize("ready", [False, True], ids=["inputs to be rotated", "inputs rotated before"])
@pytest.mark.parametrize("in_coefficients", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_a_layer_in_an_eigenbasis(biased: bool, in_coefficients: bool, ready: bool) -> None:
    width = COLUMNS - biased
    inputs_basis, outputs_basis = torch.linalg.qr(draw(COLUMNS, COLUMNS)).Q, torch.linalg.qr(draw(ROWS, ROWS)).Q
    ones = torch.ones(ROWS, COLUMNS, dtype=torch.float64)
    metric = BlockMetric(inputs_basis, outputs_basis, ones, ones)
    bases, (coefficients, more) = Bases(metric, biased), shifted()
    x, turned = draw(6, width), draw(ROWS, COLUMNS)

    def held(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        rotated = bases.rotated(x)
        shift = coefficients.shift(coefficients.layout.kernel(rotated)) if in_coefficients else None
        return HeldLinear.apply(x, rotated if ready else None, weight, bias, bases, shift)

    whole = metric.rotate_back(turned + more if in_coefficients else turned)
    parameters = (turned[:, :width].clone(), turned[:, -1].clone()) if biased else (turned,)
    exact = nn.functional.linear(x, whole[:, :width], whole[:, -1] if biased else None)
    torch.testing.assert_close(held(x, *parameters), exact)
    for by_inputs in (True, False):
        leaves = tuple(t.clone().requires_grad_() for t in ((x, *parameters) if by_inputs else parameters))

        def of_leaves(*leaves: Tensor, by_inputs: bool = by_inputs) -> Tensor:
            return held(*leaves) if by_inputs else held(x, *leaves)

        assert torch.autograd.gradcheck(of_leaves, leaves)
        assert torch.autograd.gradgradcheck(of_leaves, leaves)
