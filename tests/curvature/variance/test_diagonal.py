"""Diagonal variances at any size, against full tensors, full Hessians and brute force on sampled weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call

from ong.curvature.variance import (
    ESTIMATORS,
    Categorical,
    Gaussian,
    coordinates,
    derivatives,
    diagonal_bounds,
    diagonal_variances,
    fisher_covariances,
)
from ong.curvature.variance.closed_forms import coordinate_variances
from ong.curvature.variance.network import open_network

# Same derivatives by another order of operations in float64.
EXACT = {"rtol": 1e-9, "atol": 1e-13}


class SharedWeight(nn.Module):
    """The first layer's weight is used again, transposed, at the output: its gradient is not δ aᵀ alone."""

    def __init__(self):
        super().__init__()
        self.first, self.middle = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(torch.tanh(self.middle(torch.tanh(self.first(x)))), self.first.weight.T)


class CalledTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x):
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class TiedModules(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def conv_net():
    head = [nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), nn.Tanh(), *head)


def attention():
    block = nn.TransformerEncoderLayer(2, 1, 2, dropout=0.5, batch_first=True)
    return nn.Sequential(block, nn.Flatten(), nn.Linear(4, 2))


MODELS = {
    "mlp": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 3)), (3,), {"0", "2"}),
    "no bias": (
        lambda: nn.Sequential(nn.Linear(3, 4, bias=False), nn.GELU(), nn.Linear(4, 3)),
        (3,),
        {"0", "2"},
    ),
    "bare linear": (lambda: nn.Linear(3, 4), (3,), {""}),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)),
        (3,),
        {"0", "3"},
    ),
    "softmax hidden": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 3)),
        (3,),
        {"0", "2"},
    ),
    "convolution": (conv_net, (1, 5, 5), {"5"}),
    "sequence": (
        lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, 2)),
        (3, 2),
        {"3"},
    ),
    "attention": (attention, (2, 2), {"2"}),
    "shared weight": (SharedWeight, (3,), {"middle"}),
    "called twice": (CalledTwice, (3,), {"head"}),
    "tied modules": (
        TiedModules,
        (3,),
        {"second"},
    ),  # its own bias; the weight goes by the first module's name
}


def build(name):
    make, shape, factored = MODELS[name]
    torch.manual_seed(3)
    model = make().double()
    inputs = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    return model, inputs, factored


@pytest.mark.parametrize("name", MODELS)
def test_diagonals_of_any_model_equal_those_of_its_full_hessians(name, family):
    model, inputs, _ = build(name)
    full, found = derivatives(model, inputs), diagonal_variances(model, inputs, family=family)
    likelihood = {"categorical": Categorical, "gaussian": Gaussian}[family]()
    D = full.hessian.diagonal(dim1=-2, dim2=-1).mT
    expected = coordinate_variances(likelihood, full.outputs.unsqueeze(1), full.jacobian.mT, D)
    for parameter, at in full.slices.items():
        shape = found.fisher[parameter].shape
        torch.testing.assert_close(found.fisher[parameter], expected["fisher"].mean(0)[at].view(shape), **EXACT)
        for key in (*ESTIMATORS, "cross"):
            value = found.cross[parameter] if key == "cross" else found.variance[key][parameter]
            torch.testing.assert_close(value, expected[key].mean(0)[at].view(shape) / 3, **EXACT)


@pytest.mark.parametrize("name", MODELS)
def test_layers_are_factored_where_it_is_exact_and_only_there(name):
    model, inputs, factored = build(name)
    with open_network(model, inputs) as network:
        assert set(network.factored) == factored


@pytest.mark.parametrize("sampled", [False, True])
def test_diagonals_equal_those_of_the_covariance_tensors(oracle, activation, family, sampled):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(3)
    options = {"family": family, "draws": 4, "sampled_inputs": sampled}
    full, found = fisher_covariances(net, x, **options), diagonal_variances(net, x, **options)
    for key in ESTIMATORS:
        tensor = getattr(full, key)
        expected = tensor.diagonal() if key == "mixture" else torch.einsum("iiii->i", tensor)
        got = torch.cat([v.reshape(-1) for v in found.variance[key].values()])
        torch.testing.assert_close(got, expected, **EXACT)


def test_diagonals_are_the_same_with_first_derivatives_only(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(3)
    whole = diagonal_variances(net, x)
    few = diagonal_variances(net, x, estimators=("mc", "rademacher"))
    for key in ("mc", "rademacher"):
        for name, value in few.variance[key].items():
            torch.testing.assert_close(value, whole.variance[key][name], rtol=1e-13, atol=0)


def test_results_do_not_depend_on_how_inputs_are_chunked(oracle, monkeypatch):
    net, x = oracle.make_mlp(), oracle.make_inputs(7)
    whole = diagonal_variances(net, x)
    monkeypatch.setattr(coordinates, "INPUTS_A_CHUNK", 2)
    monkeypatch.setattr(coordinates, "NUMBERS_A_PASS", 1)
    pieces = diagonal_variances(net, x)
    for key in ESTIMATORS:
        for name, value in pieces.variance[key].items():
            torch.testing.assert_close(value, whole.variance[key][name], rtol=1e-11, atol=1e-16)


def test_gaussian_mc_variance_is_twice_the_squared_fisher_per_draw(oracle, activation):
    found = diagonal_variances(oracle.make_mlp(activation), oracle.make_inputs(1), family="gaussian", draws=7)
    for name, fisher in found.fisher.items():
        torch.testing.assert_close(found.variance["mc"][name], 2 * fisher.square() / 7, rtol=1e-13, atol=0)


def test_rademacher_is_exact_for_a_single_gaussian_output(oracle):
    found = diagonal_variances(oracle.make_mlp(sizes=(2, 3, 1)), oracle.make_inputs(4), family="gaussian")
    for name, fisher in found.fisher.items():
        assert (found.variance["rademacher"][name] <= 1e-14 * fisher.square().max()).all()


def test_mixture_is_below_both_and_signs_below_gaussian_noise(oracle, activation, family):
    found = diagonal_variances(oracle.make_mlp(activation), oracle.make_inputs(5), family=family).variance
    for name in found["mc"]:
        assert (found["mixture"][name] <= torch.minimum(found["mc"][name], found["hessian"][name]) * (1 + 1e-12)).all()
        assert (found["rademacher"][name] <= found["gaussian"][name]).all()


@pytest.mark.parametrize("moments", ["exact", "bound"])
def test_diagonal_bounds_hold(oracle, activation, family, moments):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(5)
    bounds = diagonal_bounds(net, x, family=family, draws=2, moments=moments)
    found = diagonal_variances(net, x, family=family, draws=2).variance
    for name in found["mc"]:
        assert (found["mc"][name] <= bounds.mc[name] * (1 + 1e-12)).all()
        assert (found["hessian"][name] <= bounds.hessian[name] * (1 + 1e-12)).all()


def test_gaussian_diagonal_bounds_are_equalities(oracle, activation):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(2)
    bounds = diagonal_bounds(net, x, family="gaussian", moments="bound")
    found = diagonal_variances(net, x, family="gaussian").variance
    for name in found["mc"]:
        torch.testing.assert_close(found["mc"][name], bounds.mc[name], rtol=1e-12, atol=0)
        torch.testing.assert_close(found["hessian"][name], bounds.hessian[name], rtol=1e-12, atol=0)


def test_784_100_100_10_net_agrees_with_brute_force_on_sampled_weights(oracle, activation):
    net, x = oracle.make_mlp(activation, (784, 100, 100, 10)), oracle.make_inputs(4, 784).abs().clamp(max=1)
    found = diagonal_variances(net, x)
    picker = torch.Generator().manual_seed(5)
    for name, value in net.named_parameters():
        for index in torch.randint(value.numel(), (3,), generator=picker).tolist():
            direction = torch.zeros_like(value).view(-1)
            direction[index] = 1
            own = []
            for one in x:

                def along(s, one=one, name=name, value=value, direction=direction):
                    moved = value.detach() + s * direction.view_as(value)
                    return functional_call(net, {name: moved}, (one[None],))[0]

                zero = torch.zeros((), dtype=torch.float64)
                J = torch.func.jacrev(along)(zero)
                D = torch.func.jacrev(torch.func.jacrev(along))(zero)  # reverse mode twice: another route
                own.append(coordinate_variances(Categorical(), along(zero), J, D))
            for key in ESTIMATORS:
                expected = torch.stack([one[key] for one in own]).mean().detach() / len(x)
                got = found.variance[key][name].view(-1)[index]
                # Mixtures and signs cancel: relative to F² of that weight, not to the variance itself.
                scale = float(found.fisher[name].view(-1)[index]) ** 2
                torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-12 * scale)


def test_frozen_parameters_are_left_out(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(2)
    whole = diagonal_variances(net, x)
    net[0].weight.requires_grad_(False)
    few = diagonal_variances(net, x)
    assert set(few.fisher) == set(whole.fisher) - {"0.weight"}
    torch.testing.assert_close(few.variance["mixture"]["0.bias"], whole.variance["mixture"]["0.bias"])


def test_model_is_left_as_found_and_dropout_does_not_act():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Tanh(), nn.Linear(4, 2)).double()
    net[2].eval()  # modes differ from module to module
    modes = [m.training for m in net.modules()]
    weights = [p.clone() for p in net.parameters()]
    x = torch.randn(3, 3, dtype=torch.float64)
    first, second = diagonal_variances(net, x), diagonal_variances(net, x)
    assert torch.equal(first.variance["mc"]["0.weight"], second.variance["mc"]["0.weight"])
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True))
    assert all(p.grad is None for p in net.parameters())
    assert all(not m._forward_hooks for m in net.modules())


def test_dtype_follows_the_model(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(2)
    exact = diagonal_variances(net, x)
    rough = diagonal_variances(net.float(), x.float())
    for name, value in rough.variance["mc"].items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact.variance["mc"][name], rtol=1e-3, atol=1e-7)
