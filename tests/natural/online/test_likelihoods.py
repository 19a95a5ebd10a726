from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ong.errors import UnknownNameError, UserError
from ong.natural.online import LIKELIHOODS, Bernoulli, Categorical, Gaussian, likelihood_of

OUTPUTS = torch.tensor([[0.3, -1.2, 2.0], [0.0, 0.7, -0.4]], dtype=torch.float64)
TARGETS: dict[str, Tensor] = {
    "gaussian": torch.tensor([[0.1, 0.2, 0.3], [1.0, -1.0, 0.0]], dtype=torch.float64),
    "bernoulli": torch.tensor([[0.0, 1.0, 0.4], [1.0, 0.25, 0.0]], dtype=torch.float64),
    "categorical": torch.tensor([2, 0]),
}


@pytest.mark.parametrize("name", sorted(LIKELIHOODS))
def test_cotangents_have_the_hessian_of_the_loss_as_their_second_moment(name: str) -> None:
    """In natural parameters the Fisher information of the outputs is the Hessian of the loss."""
    likelihood, row = LIKELIHOODS[name], OUTPUTS[:1]
    target = TARGETS[name][:1]
    hessian = torch.autograd.functional.hessian(lambda h: likelihood.loss(h[None], target), row[0])
    generator = torch.Generator().manual_seed(0)
    u = likelihood.cotangent(row.expand(40_000, 3).contiguous(), generator)
    products = u[:, :, None] * u[:, None, :]
    error = products.std(0) / len(u) ** 0.5
    # 5 standard errors, or rounding where signs make an entry exact.
    assert bool(((products.mean(0) - hessian).abs() <= 5 * error + 1e-12).all())


def test_losses_are_means_over_examples_of_sums_over_outputs() -> None:
    gaussian = 0.5 * (OUTPUTS - TARGETS["gaussian"]).square().sum(1).mean()
    torch.testing.assert_close(Gaussian().loss(OUTPUTS, TARGETS["gaussian"]), gaussian)
    p, y = torch.sigmoid(OUTPUTS), TARGETS["bernoulli"]
    bernoulli = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(Bernoulli().loss(OUTPUTS, y), bernoulli)
    categorical = -torch.softmax(OUTPUTS, 1)[[0, 1], [2, 0]].log().mean()
    torch.testing.assert_close(Categorical().loss(OUTPUTS, TARGETS["categorical"]), categorical)


@pytest.mark.parametrize(
    ("name", "targets", "message"),
    [
        ("bernoulli", torch.tensor([[0.0, 1.2, 0.0], [0.0, 0.0, 0.0]]), r"\[0, 1\].*from 0 to 1.2"),
        ("bernoulli", torch.full((2, 3), float("nan")), r"\[0, 1\]"),
        ("gaussian", torch.full((2, 3), float("inf")), "NaN or infinity"),
        ("gaussian", torch.zeros(2, 4), r"\[2, 3\].*\[2, 4\]"),
        ("gaussian", torch.zeros(2, 3, dtype=torch.int64), "floating-point"),
        ("categorical", torch.tensor([0, 3]), r"0 … 2.*from 0 to 3"),
        ("categorical", torch.zeros(2, 3), "int64 class numbers"),
    ],
)
def test_targets_outside_the_support_are_refused(name: str, targets: Tensor, message: str) -> None:
    with pytest.raises(UserError, match=message):
        LIKELIHOODS[name].check(OUTPUTS, targets)


def test_an_unknown_likelihood_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'gaussian'"):
        likelihood_of("gausian")
