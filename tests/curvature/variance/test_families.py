"""Moments of the likelihoods, against derivatives of the log-partition function and their own full arrays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import jacfwd

from ong.curvature.variance import Categorical, Gaussian

FAMILIES = [Categorical(), Gaussian()]
# The arrays are sums of at most a few dozen products of numbers below 1: a few units of rounding each.
EXACT = {"rtol": 1e-12, "atol": 1e-14}


def partition(name: str):
    return (lambda h: torch.logsumexp(h, -1)) if name == "categorical" else (lambda h: 0.5 * h.square().sum())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_cumulants_are_derivatives_of_the_log_partition_function(family):
    h, orders = 2 * random(4), [partition(family.name)]
    for _ in range(4):
        orders.append(jacfwd(orders[-1]))
    mean, fisher, third, fourth = (order(h) for order in orders[1:])
    pairs = [torch.einsum(f"{p},{q}->abcd", fisher, fisher) for p, q in (("ab", "cd"), ("ac", "bd"), ("ad", "bc"))]
    torch.testing.assert_close(family.mean(h), mean, **EXACT)
    torch.testing.assert_close(family.fisher(h), fisher, **EXACT)
    torch.testing.assert_close(family.third_cumulant(h), third, **EXACT)
    torch.testing.assert_close(family.fourth_moment(h), fourth + sum(pairs), **EXACT)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_contractions_equal_those_of_the_full_arrays(family):
    h, (u, v, w, q) = random(4), random(4, 4, seed=1)
    arrays = family.fisher(h), family.third_cumulant(h), family.fourth_moment(h)
    torch.testing.assert_close(family.second(h, u, v), torch.einsum("ab,a,b->", arrays[0], u, v), **EXACT)
    torch.testing.assert_close(family.third(h, u, v, w), torch.einsum("abc,a,b,c->", arrays[1], u, v, w), **EXACT)
    expected = torch.einsum("abcd,a,b,c,d->", arrays[2], u, v, w, q)
    torch.testing.assert_close(family.fourth(h, u, v, w, q), expected, **EXACT)
    excess = family.fourth(h, u, u, u, u) - family.second(h, u, u) ** 2
    torch.testing.assert_close(family.square_variance(h, u), excess, **EXACT)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_contractions_broadcast_over_inputs_and_coordinates(family):
    h, u = random(5, 1, 4), random(5, 7, 4, seed=1)
    one_by_one = torch.stack(
        [torch.stack([family.fourth(h[x, 0], *[u[x, i]] * 4) for i in range(7)]) for x in range(5)]
    )
    torch.testing.assert_close(family.fourth(h, u, u, u, u), one_by_one, **EXACT)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_factor_is_a_square_root_of_the_fisher(family):
    h, noise = random(6, 5), random(6, 5, seed=1)
    B = family.factor(h)
    torch.testing.assert_close(B @ B.mT, family.fisher(h), **EXACT)
    torch.testing.assert_close(family.apply_factor(h, noise), (B @ noise.unsqueeze(-1)).squeeze(-1), **EXACT)
    torch.testing.assert_close(
        family.factor_fourth(h, noise), (B.mT @ noise.unsqueeze(-1)).squeeze(-1).pow(4).sum(-1), **EXACT
    )


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_outer_norms_equal_those_of_the_explicit_matrix(family, scale):
    h = scale * random(4)
    I = family.fisher(h)  # noqa: E741
    excess = (family.fourth_moment(h) - torch.einsum("ab,cd->abcd", I, I)).reshape(16, 16)
    largest, frobenius = family.outer_norms(h)
    torch.testing.assert_close(largest, torch.linalg.eigvalsh(excess)[-1], **EXACT)
    torch.testing.assert_close(frobenius, torch.linalg.matrix_norm(excess), **EXACT)


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
def test_categorical_eigenvalue_bounds_hold(scale):
    family, h = Categorical(), scale * random(300, 6)
    p = torch.softmax(h, -1)
    bound = torch.minimum(p.max(-1).values, 1 - p.square().sum(-1))
    slack = 1e-13  # rounding of 1 − ‖p‖² when p is nearly one-hot
    torch.testing.assert_close(family.fisher_bound(h), bound, rtol=0, atol=slack)
    assert (torch.linalg.eigvalsh(family.fisher(h))[:, -1] <= family.fisher_bound(h) + slack).all()
    assert (family.outer_norms(h)[0] <= 2 * family.fisher_bound(h) + slack).all()


def test_categorical_eigenvalue_bounds_are_within_twice_the_truth_for_two_even_classes():
    h = torch.zeros(1, 2, dtype=torch.float64)  # I = ¼ [[1, −1], [−1, 1]]: λ_max = ½ and the bound is ½
    torch.testing.assert_close(torch.linalg.eigvalsh(Categorical().fisher(h))[:, -1], Categorical().fisher_bound(h))


def test_gaussian_fourth_moment_equals_gauss_hermite_quadrature():
    nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    weights = weights / weights.sum()
    grid = torch.tensor([[a, b] for a in nodes for b in nodes])
    mass = torch.tensor([a * b for a in weights for b in weights])
    expected = torch.einsum("n,na,nb,nc,nd->abcd", mass, grid, grid, grid, grid)
    torch.testing.assert_close(Gaussian().fourth_moment(random(2)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_drawn_labels_have_the_mean_and_covariance_of_the_likelihood(family):
    h, draws = random(2, 3), 40_000
    labels = family.sample(h, draws, torch.Generator().manual_seed(0))
    t = family.residual(h, labels)
    # Entries of the mean vary by at most 1/√draws, those of the covariance by √2/√draws: five of each.
    assert t.mean(1).abs().max() < 5 / draws**0.5
    assert (t.mT @ t / draws - family.fisher(h)).abs().max() < 5 * (2 / draws) ** 0.5
    again = family.sample(h, draws, torch.Generator().manual_seed(0))
    assert torch.equal(labels, again)
