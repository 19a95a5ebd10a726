"""Draw counts and comparisons, against definitions computed by hand and against repeated estimates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ong.curvature.variance import (
    ESTIMATORS,
    compare_estimators,
    diagonal_variances,
    draws_for_relative_error,
    estimate_fisher_diagonal,
    relative_std,
)


def test_relative_std_is_the_root_mean_square_error_of_a_layer_over_its_fisher_norm(oracle, activation, family):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(4)
    exact = diagonal_variances(net, x, family=family)
    found = relative_std(net, x, family=family)
    assert set(found) == {"0", "2", "4"}
    for layer, by_estimator in found.items():
        names = [f"{layer}.weight", f"{layer}.bias"]
        norm = math.sqrt(sum(float(exact.fisher[n].square().sum()) for n in names))
        for estimator in ESTIMATORS:
            total = sum(float(exact.variance[estimator][n].sum()) for n in names)
            assert by_estimator[estimator] == pytest.approx(math.sqrt(total) / norm, rel=1e-12)


@pytest.mark.parametrize("fisher", ["mc", "rademacher", "logit"])
@pytest.mark.parametrize("error", [0.5, 0.1, 0.03])
def test_draws_are_the_smallest_number_that_reaches_the_error(oracle, activation, fisher, error):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(4)
    family = "gaussian" if fisher == "logit" else "categorical"
    estimator = "rademacher" if fisher == "logit" else fisher
    draws = draws_for_relative_error(net, x, error, fisher)

    def worst(n):
        by_layer = relative_std(net, x, family=family, estimators=(estimator,), draws=n)
        return max(value[estimator] for value in by_layer.values())

    assert worst(draws) <= error * (1 + 1e-12)
    assert draws == 1 or worst(draws - 1) > error


def test_estimates_with_that_many_draws_reach_the_error(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(6)
    exact = estimate_fisher_diagonal(net, x, "exact")
    generator = torch.Generator().manual_seed(0)
    for fisher in ("mc", "rademacher"):
        draws = draws_for_relative_error(net, x, 0.1, fisher)
        errors = {layer: [] for layer in ("0", "2", "4")}
        for _ in range(200):
            drawn = estimate_fisher_diagonal(net, x, fisher, draws=draws, generator=generator)
            for layer, seen in errors.items():
                names = [n for n in exact if n.startswith(layer)]
                gap = sum(float((drawn[n] - exact[n]).square().sum()) for n in names)
                seen.append(gap / sum(float(exact[n].square().sum()) for n in names))
        reached = max(math.sqrt(sum(seen) / 200) for seen in errors.values())
        # The root mean square of 200 errors is known to about 7 %; the worst layer sits at the target.
        assert 0.08 < reached < 0.115


def test_more_examples_need_fewer_draws_in_proportion(oracle):
    net, x = oracle.make_mlp(), oracle.make_inputs(4)
    alone = draws_for_relative_error(net, x, 0.001, "mc")
    many = draws_for_relative_error(net, x, 0.001, "mc", examples=400)
    assert alone / 100 <= many <= alone / 100 + 1


def test_exact_draws_nothing(oracle):
    assert draws_for_relative_error(oracle.make_mlp(), oracle.make_inputs(1), 1e-9, "exact") == 0


def test_layers_without_fisher_are_left_out():
    """A unit that no output depends on has F = 0 and nothing to estimate."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    net[0].bias.data.fill_(-100)
    x = torch.randn(2, 2, dtype=torch.float64)
    assert math.isnan(relative_std(net, x, estimators=("mc",))["0"]["mc"])
    assert draws_for_relative_error(net, x, 0.5, "mc") >= 1


def test_comparison_sums_each_layer_and_picks_the_least(oracle, activation, family):
    net, x = oracle.make_mlp(activation), oracle.make_inputs(3)
    exact = diagonal_variances(net, x, family=family)
    for layer, found in compare_estimators(net, x, family=family).items():
        for name, value in found.variance.items():
            assert value == pytest.approx(exact.layer_variance(name)[layer], rel=1e-12)
        assert found.variance[found.best] <= min(found.variance.values()) * (1 + 1e-6) + 1e-12


def test_hessian_wins_every_layer_of_a_relu_net_and_the_last_layer_of_any(oracle, activation):
    found = compare_estimators(oracle.make_mlp(activation), oracle.make_inputs(3))
    zeros = found.values() if activation == "relu" else [found["4"]]
    for layer in zeros:
        assert layer.best == "hessian"
        assert layer.variance["hessian"] == 0
        assert layer.hessian_share > 0


def test_hessian_does_not_win_everywhere(oracle):
    """The last layer has V₂ = 0; a layer before curved units need not have V₂ < V₁."""
    net = oracle.make_mlp("tanh", (2, 3, 2), seed=1)
    net[2].weight.data.div_(20)  # V₁ falls with the fourth power of the later slopes, V₂ with the second
    found = compare_estimators(net, oracle.make_inputs(3))
    assert found["0"].variance["mc"] < found["0"].variance["hessian"]
    assert found["0"].hessian_share < 0.5


def test_signs_need_fewer_draws_than_labels_on_a_confident_net(oracle):
    """The claim behind the default: where one class is almost certain, other labels are rare events."""
    net, x = oracle.make_mlp("tanh", (2, 8, 4)), oracle.make_inputs(8)
    net[2].weight.data.mul_(6)
    labels, signs = (draws_for_relative_error(net, x, 0.01, name) for name in ("mc", "rademacher"))
    assert labels > 5 * signs
