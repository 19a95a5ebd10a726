from __future__ import annotations

import pytest
import torch
from torch import nn

from ong.curvature.variance import estimate_fisher_diagonal, measured_relative_std, relative_std
from ong.errors import UserError


def net(activation: type[nn.Module] = nn.Tanh) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), activation(), nn.Linear(4, 3)).double()
    return model, torch.randn(6, 5, dtype=torch.float64)


@pytest.mark.parametrize("family", ["categorical", "gaussian"])
@pytest.mark.parametrize("draws", [1, 3])
def test_measured_errors_are_those_of_the_closed_form(family: str, draws: int) -> None:
    model, inputs = net()
    generator = torch.Generator().manual_seed(0)
    measured = measured_relative_std(model, inputs, family=family, draws=draws, repeats=3000, generator=generator)
    for layer, predicted in relative_std(model, inputs, family=family, draws=draws).items():
        for name, found in measured[layer].items():
            # 20 comparisons in all: four standard errors
            assert abs(found.relative_std - predicted[name]) <= 4 * found.standard_error + 1e-12


def test_the_gram_of_a_layer_gives_the_error_of_estimates_formed_in_full() -> None:
    model, inputs = net()
    exact = estimate_fisher_diagonal(model, inputs, "exact")
    generator = torch.Generator().manual_seed(1)
    squares = []
    for _ in range(250):
        estimate = estimate_fisher_diagonal(model, inputs, "mc", generator=generator)
        squares.append(sum(float((estimate[n] - exact[n]).square().sum()) for n in ("0.weight", "0.bias")))
    norm = sum(float(exact[n].square().sum()) for n in ("0.weight", "0.bias"))
    whole = (sum(squares) / len(squares) / norm) ** 0.5
    found = measured_relative_std(model, inputs, estimators=("mc",), repeats=4000, generator=generator)["0"]["mc"]
    assert found.relative_std == pytest.approx(whole, rel=0.15)  # 250 repeats know it to about 4%


def test_layers_that_are_not_linear_are_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    with pytest.raises(UserError, match=r"parameter '1\.weight' is not of a Linear layer"):
        measured_relative_std(model, torch.randn(3, 4, dtype=torch.float64), estimators=("mc",))
