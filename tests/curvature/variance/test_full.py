"""Covariance tensors, against expectations over every label of estimates that differentiate log p(y|x)."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ong.curvature.variance import (
    Categorical,
    Gaussian,
    covariance_bounds,
    derivatives,
    diagonal_variances,
    fisher_covariances,
)

# Sums of a few hundred products of order-one numbers in float64: rounding stays below 1e-14; ten times that.
EXACT = {"rtol": 1e-11, "atol": 1e-13}
FAMILIES = {"categorical": Categorical(), "gaussian": Gaussian()}


def test_covariances_equal_enumeration_over_labels(oracle, activation, family):
    sizes = (2, 3, 2, 3) if family == "categorical" else (2, 3, 2)
    net, x = oracle.make_mlp(activation, sizes), oracle.make_inputs(1)
    rule = oracle.estimates_by_label(net, x[0], family)
    mean1, cov1 = oracle.moments([(w, first) for w, first, _ in rule])
    mean2, cov2 = oracle.moments([(w, second) for w, _, second in rule])
    cross = sum(w * torch.einsum("ij,kl->ijkl", a - mean1, b - mean2) for w, a, b in rule)
    found = fisher_covariances(net, x, family=family)
    torch.testing.assert_close(mean1, mean2, **EXACT)  # both estimators are unbiased: the two forms of the Fisher
    torch.testing.assert_close(found.fisher, mean1, **EXACT)
    torch.testing.assert_close(found.mc, cov1, **EXACT)
    torch.testing.assert_close(found.hessian, cov2, **EXACT)
    torch.testing.assert_close(found.cross, cross, **EXACT)


def test_two_draws_halve_the_covariance_by_enumeration_over_label_pairs(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(1)
    rule = oracle.estimates_by_label(net, x[0], "categorical")
    pairs = [(w * v, (a + b) / 2) for (w, a, _), (v, b, _) in product(rule, rule)]
    torch.testing.assert_close(fisher_covariances(net, x, draws=2).mc, oracle.moments(pairs)[1], **EXACT)


def test_fixed_inputs_average_and_sampled_inputs_add_the_spread_of_the_fisher(oracle):
    net, x = oracle.make_mlp(sizes=(2, 3, 3)), oracle.make_inputs(2)
    rules = [oracle.estimates_by_label(net, one, "categorical") for one in x]
    for key, pick in (("mc", 1), ("hessian", 2)):
        fixed = [(a[0] * b[0], (a[pick] + b[pick]) / 2) for a, b in product(*rules)]
        sampled = [(one[0] / 2, one[pick]) for rule in rules for one in rule]
        for given, enumerated in ((False, fixed), (True, sampled)):
            found = fisher_covariances(net, x, sampled_inputs=given)
            mean, covariance = oracle.moments(enumerated)
            torch.testing.assert_close(found.fisher, mean, **EXACT)
            torch.testing.assert_close(getattr(found, key), covariance, **EXACT)


def test_rademacher_and_gaussian_noise_covariances_equal_enumeration_over_the_noise(oracle, family):
    net, x = oracle.make_mlp(sizes=(2, 2, 3)), oracle.make_inputs(1)
    made = derivatives(net, x)
    B = FAMILIES[family].factor(made.outputs[0])
    found = fisher_covariances(net, x, family=family)
    for key, rule in (("rademacher", oracle.sign_rule(3)), ("gaussian", oracle.gaussian_rule(3))):
        scores = [(w, made.jacobian[0].T @ B @ noise) for w, noise in rule]
        mean, covariance = oracle.moments([(w, torch.outer(s, s)) for w, s in scores])
        torch.testing.assert_close(mean, found.fisher, **EXACT)
        torch.testing.assert_close(getattr(found, key), covariance, **EXACT)


def test_mixture_equals_the_minimum_over_weights_and_is_below_both(oracle, activation, family):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(2)
    found = fisher_covariances(net, x[:1], family=family)
    v1, v2, c = (torch.einsum("ijij->ij", t) for t in (found.mc, found.hessian, found.cross))
    assert (found.mixture <= torch.minimum(v1, v2) * (1 + 1e-12)).all()
    spread = v1 + v2 - 2 * c
    distinct = spread > 1e-12 * (v1 + v2)
    expected = ((v1 * v2 - c.square()) / spread)[distinct]
    torch.testing.assert_close(found.mixture[distinct], expected, rtol=1e-9, atol=1e-13 * float(v1.max()))


def test_mixture_of_two_classes_has_no_variance(oracle):
    """Both estimators are affine in the one binary label, so some weight cancels it."""
    net, x = oracle.make_mlp(sizes=(2, 3, 2)), oracle.make_inputs(1)
    found = fisher_covariances(net, x)
    assert torch.einsum("ijij->ij", found.mc).max() > 1e-3
    assert found.mixture.max() < 1e-12


def test_hessian_estimator_of_the_last_layer_has_no_variance(oracle, activation, family):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(1)
    made, found = derivatives(net, x), fisher_covariances(net, x, family=family)
    last = slice(made.slices["4.weight"].start, made.slices["4.bias"].stop)
    assert (found.hessian[last, last, last, last] == 0).all()
    assert found.mc[last, last, last, last].abs().max() > 1e-2


def test_hessian_estimator_has_no_variance_within_layers_of_a_relu_net_but_has_across(oracle, family):
    net, x = oracle.make_mlp("relu", (2, 4, 4, 3)), oracle.make_inputs(1)
    made, found = derivatives(net, x), fisher_covariances(net, x, family=family)
    blocks = [slice(made.slices[f"{at}.weight"].start, made.slices[f"{at}.bias"].stop) for at in (0, 2, 4)]
    for block in blocks:
        assert (found.hessian[block, block, block, block] == 0).all()
    for left, right in ((0, 1), (1, 2), (0, 2)):
        a, b = blocks[left], blocks[right]
        assert found.hessian[a, b, a, b].abs().max() > 1e-2


def test_hessian_estimator_has_no_variance_within_layers_of_a_linear_net_but_has_across(oracle, family):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3)).double()
    made, found = (
        derivatives(net, oracle.make_inputs(1)),
        fisher_covariances(net, oracle.make_inputs(1), family=family),
    )
    first = slice(0, made.slices["0.bias"].stop)
    second = slice(first.stop, made.slices["1.bias"].stop)
    for block in (first, second):
        assert (found.hessian[block, block, block, block] == 0).all()
    assert found.hessian[first, second, first, second].abs().max() > 1e-2


def test_smooth_nets_have_variance_within_hidden_layers(oracle):
    for activation in ("tanh", "sigmoid", "softplus"):
        found = diagonal_variances(oracle.make_mlp(activation), oracle.make_inputs(1), estimators=("hessian",))
        assert all(found.variance["hessian"][f"{layer}.weight"].max() > 1e-8 for layer in (0, 2))


def test_gaussian_diagonal_variance_is_twice_the_squared_fisher_for_every_net(oracle, activation):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(1)
    found = fisher_covariances(net, x, family="gaussian", draws=5)
    variance = torch.einsum("iiii->i", found.mc)
    torch.testing.assert_close(variance, 2 * found.fisher.diagonal().square() / 5, **EXACT)


@pytest.mark.parametrize("draws", [1, 4])
def test_bounds_hold_in_order(oracle, activation, family, draws):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(3)
    found = fisher_covariances(net, x, family=family, draws=draws)
    bounds = covariance_bounds(net, x, family=family, draws=draws)
    slack = 1 + 1e-12  # a bound that is attained may be missed by rounding
    assert found.mc.norm() <= bounds.mc_spectral * slack
    assert bounds.mc_spectral <= bounds.mc_frobenius * slack
    assert found.hessian.norm() <= bounds.hessian_spectral * slack
    assert bounds.hessian_spectral <= bounds.hessian_frobenius * slack


def test_spectral_bound_is_attained_where_the_jacobian_stretches_all_directions_alike(oracle):
    """h = Wx + b: J Jᵀ is the identity times 1 + ‖x‖², so the norm of (J⊗J)ᵀ(K − I⊗I)(J⊗J) is the bound."""
    torch.manual_seed(0)
    net = torch.nn.Linear(2, 3).double()
    x = oracle.make_inputs(1)
    for family in FAMILIES:
        found, bounds = fisher_covariances(net, x, family=family), covariance_bounds(net, x, family=family)
        torch.testing.assert_close(float(found.mc.norm()), bounds.mc_spectral, rtol=1e-12, atol=0)
        assert bounds.mc_frobenius > 8.9 * bounds.mc_spectral  # ‖J‖_F⁴ = C² ‖J‖₂⁴ = 9 ‖J‖₂⁴


def test_spectral_bound_is_far_tighter_than_frobenius_on_a_hidden_layer_net(oracle, activation):
    net, x = oracle.make_mlp(activation, (2, 4, 3)), oracle.make_inputs(1)
    exact = float(fisher_covariances(net, x).mc.norm())
    bounds = covariance_bounds(net, x)
    assert exact <= bounds.mc_spectral < 0.5 * bounds.mc_frobenius


def test_outer_product_estimates_are_positive_and_hessian_estimates_need_not_be(oracle):
    rule = oracle.estimates_by_label(oracle.make_mlp(), oracle.make_inputs(1)[0], "categorical")
    assert all(torch.linalg.eigvalsh(first)[0] > -1e-13 for _, first, _ in rule)
    assert min(torch.linalg.eigvalsh(second)[0] for _, _, second in rule) < -1e-2
