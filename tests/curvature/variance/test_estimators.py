"""Estimates, against gradients and Hessians of log p(y|x), label by label; and their means against F."""

from __future__ import annotations

import pytest
import torch

from ong.curvature.variance import ESTIMATORS, estimate_fisher, estimate_fisher_diagonal, fisher_covariances

EXACT = {"rtol": 1e-11, "atol": 1e-13}  # float64, another order of operations


def as_labels(y):
    return y.view(1, 1) if y.ndim == 0 else y.view(1, 1, -1)


def joined(by_name):
    return torch.cat([v.reshape(-1) for v in by_name.values()])


def test_estimates_from_one_label_are_its_score_outer_product_and_its_negative_hessian(oracle, activation, family):
    net, x = oracle.make_mlp(activation, (2, 3, 2)), oracle.make_inputs(1)
    labels = [y for _, y in oracle.label_rule(family, net(x)[0].detach())][:4]
    made = oracle.estimates_by_label(net, x[0], family)[:4]
    for y, (_, first, second) in zip(labels, made, strict=True):
        options = {"family": family, "labels": as_labels(y)}
        torch.testing.assert_close(estimate_fisher(net, x, "mc", **options), first, **EXACT)
        torch.testing.assert_close(estimate_fisher(net, x, "hessian", **options), second, **EXACT)


@pytest.mark.parametrize("estimator", ["mc", "hessian", "mixture"])
def test_mean_over_labels_is_the_fisher(oracle, estimator, family):
    net, x = oracle.make_mlp(sizes=(2, 3, 2)), oracle.make_inputs(1)
    rule = oracle.label_rule(family, net(x)[0].detach())
    mean = sum(w * estimate_fisher(net, x, estimator, family=family, labels=as_labels(y)) for w, y in rule)
    torch.testing.assert_close(mean, estimate_fisher(net, x, "exact", family=family), **EXACT)


def test_mixture_estimates_have_the_variance_that_the_closed_form_says(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(1)
    rule = oracle.label_rule("categorical", net(x)[0].detach())
    made = [(w, estimate_fisher(net, x, "mixture", labels=as_labels(y))) for w, y in rule]
    variance = torch.einsum("ijij->ij", oracle.moments(made)[1])
    torch.testing.assert_close(variance, fisher_covariances(net, x).mixture, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("estimator", ["exact", *ESTIMATORS])
@pytest.mark.parametrize("draws", [2, 9])  # fewer and more than the number of outputs
def test_diagonal_estimate_is_the_diagonal_of_the_full_one(oracle, activation, family, estimator, draws):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(3)
    options = {"family": family, "draws": draws}
    full = estimate_fisher(net, x, estimator, generator=torch.Generator().manual_seed(0), **options)
    diagonal = estimate_fisher_diagonal(net, x, estimator, generator=torch.Generator().manual_seed(0), **options)
    torch.testing.assert_close(joined(diagonal), full.diagonal(), **EXACT)


def test_estimates_repeat_with_the_generator_and_differ_without_reseeding(oracle):
    net, x, generator = oracle.make_mlp(), oracle.make_inputs(3), torch.Generator().manual_seed(0)
    first = joined(estimate_fisher_diagonal(net, x, "mc", generator=generator))
    second = joined(estimate_fisher_diagonal(net, x, "mc", generator=generator))
    again = joined(estimate_fisher_diagonal(net, x, "mc", generator=torch.Generator().manual_seed(0)))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_global_randomness_is_untouched_when_a_generator_is_given(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(3)
    state = torch.get_rng_state()
    for estimator in ESTIMATORS:
        estimate_fisher_diagonal(net, x, estimator, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


def test_many_draws_on_the_large_net_come_near_the_exact_diagonal(oracle):
    net, x = oracle.make_mlp("tanh", (784, 100, 100, 10)), oracle.make_inputs(4, 784)
    exact = joined(estimate_fisher_diagonal(net, x, "exact"))
    drawn = joined(estimate_fisher_diagonal(net, x, draws=4000, generator=torch.Generator().manual_seed(0)))
    # Var ≤ 2F²/(N B): relative error of the whole diagonal at most sqrt(2/16000) = 1.1 %; four of those.
    assert (drawn - exact).norm() <= 4 * (2 / 16_000) ** 0.5 * exact.norm()
