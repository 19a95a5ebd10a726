"""Small networks in float64, and oracles that know nothing of the package: log p(y|x) under torch.func."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
    "relu": nn.ReLU,
}


def make_mlp(activation: str = "tanh", sizes: tuple[int, ...] = (2, 3, 2, 3), seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
    net = nn.Sequential(*layers[:-1]).double()
    for p in net.parameters():  # PyTorch's own start is so small that p is nearly uniform
        p.data.mul_(2)
    return net


def make_inputs(count: int, size: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(count, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_density(family: str, h: Tensor, y: Tensor) -> Tensor:
    if family == "categorical":
        return torch.log_softmax(h, -1)[y]
    return -0.5 * (y - h).square().sum()


def label_rule(family: str, h: Tensor) -> list[tuple[float, Tensor]]:
    """Labels and weights with which expectations of polynomials up to degree 9 in t are exact."""
    if family == "categorical":
        return [(float(p), torch.tensor(y)) for y, p in enumerate(torch.softmax(h, -1))]
    return [(w, h + e) for w, e in gaussian_rule(len(h))]


def gaussian_rule(size: int) -> list[tuple[float, Tensor]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    rule = product(range(5), repeat=size)
    return [(float(np.prod(weights[list(k)])), torch.tensor(nodes[list(k)], dtype=torch.float64)) for k in rule]


def sign_rule(size: int) -> list[tuple[float, Tensor]]:
    signs = product((-1.0, 1.0), repeat=size)
    return [(2.0**-size, torch.tensor(s, dtype=torch.float64)) for s in signs]


def flat_parameters(net: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


def flat_outputs(net: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    shapes = {name: p.shape for name, p in net.named_parameters()}

    def at(theta: Tensor) -> Tensor:
        pieces = theta.split([shape.numel() for shape in shapes.values()])
        entries = {name: piece.view(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
        return functional_call(net, entries, (x[None],))[0]

    return at


def estimates_by_label(net: nn.Module, x: Tensor, family: str) -> list[tuple[float, Tensor, Tensor]]:
    """(weight, s sᵀ, −∂²log p) for every label, from gradients and Hessians of log p itself."""
    outputs, theta = flat_outputs(net, x), flat_parameters(net)
    found = []
    for weight, y in label_rule(family, outputs(theta)):

        def log_p(t: Tensor, y: Tensor = y) -> Tensor:
            return log_density(family, outputs(t), y)

        score = grad(log_p)(theta)
        found.append((weight, torch.outer(score, score), -hessian(log_p)(theta)))
    return found


def moments(rule: list[tuple[float, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and covariance tensor of a weighted list of matrices."""
    mean = sum(w * value for w, value in rule)
    return mean, sum(w * torch.einsum("ij,kl->ijkl", v - mean, v - mean) for w, v in rule)


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    """The functions above; a fixture, since test modules cannot import a conftest under importlib mode."""
    names = (
        make_mlp,
        make_inputs,
        label_rule,
        gaussian_rule,
        sign_rule,
        flat_parameters,
        flat_outputs,
        estimates_by_label,
        moments,
    )
    return SimpleNamespace(**{function.__name__: function for function in names})


@pytest.fixture(params=list(ACTIVATIONS))
def activation(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["categorical", "gaussian"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param
