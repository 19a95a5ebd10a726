"""Second moments of what layers are fed, against the inputs written down by hand."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from nets import mlp, seeded
from torch import Tensor, nn

from ong.curvature import UnsupportedLayerError, affine_blocks, find_blocks, input_covariances
from ong.errors import NotFiniteError


def rows_of(a: Tensor) -> Tensor:
    return a.flatten(0, -2)


def with_one(a: Tensor) -> Tensor:
    return torch.cat([a, torch.ones_like(a[..., :1])], -1)


def moment(rows: Tensor) -> Tensor:
    return rows.T @ rows / len(rows)


def images() -> Tensor:
    return torch.randn(7, 2, 5, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_they_are_the_means_over_examples_and_positions_whatever_the_batches() -> None:
    layers = nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4, bias=False), nn.Linear(4, 3)
    model, x = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0)), images()
    found = input_covariances(model, [(x[:4],), (x[4:],)], find_blocks(model))
    expected = {
        "0": moment(rows_of(with_one(F.unfold(x, 3, stride=2).mT))),
        "3": moment(model[:3](x)),
        "4": moment(with_one(model[:4](x))),
    }
    assert found.keys() == expected.keys()
    for name, covariance in found.items():
        torch.testing.assert_close(covariance, expected[name].detach(), rtol=1e-12, atol=1e-14)


def test_a_layer_used_twice_has_the_mean_over_both_uses_and_one_unused_none() -> None:
    model = nn.ModuleDict({"a": mlp(4, 4), "b": mlp(4, 3), "c": mlp(4, 3)})
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = input_covariances(
        model, [(x,)], find_blocks(model), forward=lambda batch: model["b"](model["a"](model["a"](batch[0])))
    )
    once = model["a"](x).detach()
    assert found.keys() == {"a.0", "b.0"}
    torch.testing.assert_close(found["a.0"], moment(with_one(torch.cat([x, once]))), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["b.0"], moment(with_one(model["a"](once).detach())), rtol=1e-12, atol=1e-14)


def test_only_layers_that_multiply_their_inputs_have_some_to_protect() -> None:
    layers = (
        nn.Conv2d(2, 2, 3),
        nn.BatchNorm2d(2),
        nn.Conv2d(2, 2, 3, groups=2),
        nn.PReLU(),
        nn.Flatten(),
        nn.Linear(2, 3),
    )
    blocks = find_blocks(nn.Sequential(*layers))
    with pytest.warns(UserWarning, match=r"'1', '2', '3' keep their plain gradient") as caught:
        assert list(affine_blocks(blocks, warn=True)) == ["0", "5"]
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(affine_blocks(blocks)) == ["0", "5"]
    with pytest.raises(UnsupportedLayerError, match="no Linear, Conv1d or Conv2d layer"):
        affine_blocks(find_blocks(nn.Sequential(nn.LayerNorm(3), nn.PReLU())))


def test_inputs_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    model = mlp(4, 5, 3)
    x = torch.zeros(3, 4, dtype=torch.float64)
    x[1, 1] = torch.inf
    with pytest.raises(NotFiniteError, match="the inputs of layer '0' are not finite"):
        input_covariances(model, [(x,)], find_blocks(model))
