from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from ong.errors import UnknownNameError, UserError
from ong.natural.autoencoder import NETS, make_net


def test_the_paper_s_net_has_839434_parameters_and_a_linear_output() -> None:
    model = make_net("paper", generator=torch.Generator().manual_seed(0))
    widths = [784, 400, 200, 100, 50, 100, 200, 400, 784]
    expected = sum(a * b + b for a, b in pairwise(widths))
    assert sum(p.numel() for p in model.parameters()) == expected == 839_434
    assert [type(layer) for layer in model] == [nn.Linear, nn.Tanh] * 7 + [nn.Linear]


def test_the_classic_net_is_hinton_and_salakhutdinov_s() -> None:
    assert NETS["classic"] == (784, 1000, 500, 250, 30, 250, 500, 1000, 784)


def test_weights_have_variance_one_over_fan_in_and_biases_are_zero() -> None:
    model = make_net("paper", generator=torch.Generator().manual_seed(0))
    for layer in model:
        if isinstance(layer, nn.Linear):
            count, fan_in = layer.weight.numel(), layer.in_features
            variance = float(layer.weight.detach().square().mean()) * fan_in
            assert abs(variance - 1) < 5 * (2 / count) ** 0.5  # five standard errors of a χ² mean
            assert not layer.bias.any()


def test_weights_depend_on_the_generator_alone() -> None:
    first, second = (make_net([4, 3, 4], generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("widths", [[4, 4], [4, 2, 5], [4, 0, 4]])
def test_widths_that_are_no_autoencoder_are_refused(widths: list[int]) -> None:
    with pytest.raises(UserError, match="as many outputs as inputs"):
        make_net(widths, generator=torch.Generator())


def test_an_unknown_net_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'classic'"):
        make_net("clasic", generator=torch.Generator())
