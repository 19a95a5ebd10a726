"""Measured variances lie within their standard errors of the closed forms, whatever the activation."""

from __future__ import annotations

import pytest
import torch

from ong.curvature.variance import ESTIMATORS, diagonal_variances, monte_carlo_check

REPEATS = 20_000


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_measured_variance_agrees_within_its_standard_error(oracle, activation, family, estimator):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(2)
    generator = torch.Generator().manual_seed(0)
    check = monte_carlo_check(net, x, estimator, family=family, draws=3, repeats=REPEATS, generator=generator)
    # 26 correlated scores: chance passes 4.5 once in 5,000; the mean square of normal scores is near 1.
    scores = check.z_scores()
    assert scores.abs().max() < 4.5
    assert scores.square().mean() < 4
    assert check.closed_form.keys() == dict(net.named_parameters()).keys()


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_measured_variance_with_sampled_inputs_contains_the_spread_of_the_fisher(oracle, family, estimator):
    net, x = oracle.make_mlp(), oracle.make_inputs(3)
    options = {"family": family, "draws": 2, "sampled_inputs": True, "repeats": REPEATS}
    check = monte_carlo_check(net, x, estimator, generator=torch.Generator().manual_seed(0), **options)
    assert check.z_scores().abs().max() < 4.5


def test_the_check_would_notice_a_wrong_formula(oracle):
    """A fifth more than the closed form is seen at 20,000 repeats (relative standard error about 2 %)."""
    net, x = oracle.make_mlp(), oracle.make_inputs(2)
    check = monte_carlo_check(net, x, "mc", repeats=REPEATS, draws=3, generator=torch.Generator().manual_seed(0))
    name = "4.bias"
    wrong = 1.2 * check.closed_form[name]
    assert ((check.measured[name] - wrong).abs() > 4.5 * check.standard_error[name]).any()


def test_standard_error_is_that_of_repeated_measurements(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(1)
    at = {"4.bias": [0, 1, 2]}
    generator = torch.Generator().manual_seed(0)
    checks = [
        monte_carlo_check(net, x, "gaussian", repeats=500, coordinates=at, generator=generator) for _ in range(300)
    ]
    measured = torch.stack([check.measured["4.bias"] for check in checks])
    claimed = torch.stack([check.standard_error["4.bias"] for check in checks]).square().mean(0).sqrt()
    # The spread of 300 heavy-tailed values is known to some 10 %; three times that.
    torch.testing.assert_close(measured.std(0), claimed, rtol=0.3, atol=0)


def test_chosen_coordinates_of_the_large_net_agree(oracle):
    net, x = oracle.make_mlp("softplus", (784, 100, 100, 10)), oracle.make_inputs(2, 784) / 10
    at = {"0.bias": [0, 50], "2.weight": [17, 5_000], "4.weight": [3, 999]}
    found = diagonal_variances(net, x)
    for estimator in ESTIMATORS:
        check = monte_carlo_check(
            net, x, estimator, coordinates=at, repeats=REPEATS, generator=torch.Generator().manual_seed(1)
        )
        assert check.z_scores().abs().max() < 4.5
        for name, positions in at.items():
            assert torch.equal(check.closed_form[name], found.variance[estimator][name].view(-1)[positions])
