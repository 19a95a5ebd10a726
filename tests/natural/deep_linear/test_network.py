from __future__ import annotations

import pytest
import torch

from ong.errors import UserError
from ong.natural.deep_linear import DeepLinearNetwork, check_dims, flatten, unflatten


def end_to_end(weights: tuple[torch.Tensor, ...]) -> torch.Tensor:
    return torch.linalg.multi_dot(list(reversed(weights)))


@pytest.fixture
def network() -> DeepLinearNetwork:
    return DeepLinearNetwork.random([3, 4, 2, 5], generator=torch.Generator().manual_seed(0))


def test_every_layer_stands_between_its_two_products(network: DeepLinearNetwork) -> None:
    whole = end_to_end(network.weights)
    for b, w, a in zip(network.output_products, network.weights, network.input_products, strict=True):
        torch.testing.assert_close(b @ w @ a, whole, rtol=0, atol=1e-14)  # a few roundings of numbers near 1
    torch.testing.assert_close(network.product, whole, rtol=0, atol=1e-14)
    assert network.dims == (3, 4, 2, 5)
    assert network.parameter_count == 12 + 8 + 10


def test_jvp_and_vjp_are_those_of_autograd(network: DeepLinearNetwork) -> None:
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(w.shape, generator=generator, dtype=w.dtype) for w in network.weights]
    cotangent = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    _, change = torch.func.jvp(lambda *w: end_to_end(w), network.weights, tuple(directions))
    _, pull = torch.func.vjp(lambda *w: end_to_end(w), *network.weights)
    torch.testing.assert_close(network.jvp(directions), change, rtol=0, atol=1e-14)
    for ours, theirs in zip(network.vjp(cotangent), pull(cotangent), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)


def test_unflatten_undoes_flatten(network: DeepLinearNetwork) -> None:
    for ours, weight in zip(unflatten(flatten(network.weights), network), network.weights, strict=True):
        assert torch.equal(ours, weight)


def test_weights_have_variance_one_over_fan_in_and_the_asked_dtype() -> None:
    generator = torch.Generator().manual_seed(0)
    network = DeepLinearNetwork.random([400, 300], generator=generator, dtype=torch.float32)
    assert network.weights[0].dtype == torch.float32
    # The variance of 120,000 normals is known to √(2/120000) = 0.4%; 2% is five standard errors.
    assert float(network.weights[0].var()) * 400 == pytest.approx(1.0, rel=0.02)


def test_a_generator_decides_the_weights() -> None:
    first, second = (DeepLinearNetwork.random([3, 2], generator=torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first.weights[0], second.weights[0])


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ([], "no layer"),
        ([3], "no layer"),
        ([3, 0, 2], "positive"),
        ([3, -1], "positive"),
        ([2, 1.5], "whole"),
    ],
)
def test_dims_that_describe_no_network_are_named(dims: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_dims(dims)


def test_weights_that_do_not_chain_are_refused_with_their_shapes() -> None:
    with pytest.raises(UserError, match=r"W_1 of shape \(4, 3\).*W_2 of shape \(2, 5\)"):
        DeepLinearNetwork((torch.zeros(4, 3), torch.zeros(2, 5)))
    with pytest.raises(UserError, match="one matrix a layer"):
        DeepLinearNetwork(())
