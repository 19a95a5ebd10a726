"""Wrong input gives a UserError that names it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ong.curvature import variance as v
from ong.errors import UnknownNameError, UserError


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 3)).double()


@pytest.fixture
def x():
    return torch.ones(2, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("labels", "family", "message"),
    [
        (torch.tensor([[0], [3]]), "categorical", "label 3 is outside the categorical support 0…2"),
        (torch.tensor([[-1], [0]]), "categorical", "label -1 is outside"),
        (torch.tensor([[0.0], [1.0]]), "categorical", "integer class indices"),
        (torch.tensor([0, 1]), "categorical", r"expected \[inputs, draws"),
        (torch.zeros(3, 1, dtype=torch.long), "categorical", r"expected \[inputs, draws\] = \[2, N\]"),
        (torch.zeros(2, 0, dtype=torch.long), "categorical", "at least one draw"),
        (torch.full((2, 1, 3), torch.nan), "gaussian", "outside the Gaussian support"),
        (torch.full((2, 1, 3), torch.inf), "gaussian", "outside the Gaussian support"),
        (torch.zeros(2, 1, 4), "gaussian", r"\[2, N, 3\]"),
    ],
)
def test_labels_outside_the_support(net, x, labels, family, message):
    for estimate in (v.estimate_fisher, v.estimate_fisher_diagonal):
        with pytest.raises(UserError, match=message):
            estimate(net, x, "mc", family=family, labels=labels)


def test_labels_for_an_estimator_that_draws_none(net, x):
    with pytest.raises(UserError, match="draws ε and no labels"):
        v.estimate_fisher(net, x, "rademacher", labels=torch.zeros(2, 1, dtype=torch.long))


CALLS = {
    "diagonal": v.diagonal_variances,
    "full": v.fisher_covariances,
    "bounds": v.covariance_bounds,
    "diagonal bounds": v.diagonal_bounds,
    "estimate": v.estimate_fisher,
    "estimate diagonal": v.estimate_fisher_diagonal,
    "monte carlo": lambda net, x, **k: v.monte_carlo_check(net, x, "mc", **k),
    "relative": v.relative_std,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_wrong_draws_families_and_inputs(net, x, call):
    for draws in (0, -1, 1.5, True):
        with pytest.raises(UserError, match=r"draws = .*whole number of at least 1"):
            call(net, x, draws=draws)
    with pytest.raises(UnknownNameError, match="unknown output family 'categoricl'; did you mean 'categorical'"):
        call(net, x, family="categoricl")
    for empty in (x[:0], torch.tensor(1.0)):
        with pytest.raises(UserError, match="no inputs given"):
            call(net, empty)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite(net, x, call, bad):
    x[1, 0] = bad
    net[2].weight.data.fill_(0.5)
    if bad == torch.inf:  # tanh would hide it
        net[1] = nn.Identity()
    with pytest.raises(UserError, match="outputs of input 1 hold NaN or infinity"):
        call(net, x)


def test_a_bad_input_beyond_the_first_few_is_found_too(net):
    x = torch.ones(70, 2, dtype=torch.float64)
    x[69, 0] = torch.nan
    with pytest.raises(UserError, match="NaN or infinity"):
        v.diagonal_variances(net, x)


def test_outputs_of_another_shape(x):
    with pytest.raises(UserError, match=r"returned shape \(2, 3, 1\); expected \[2, outputs\]"):
        v.diagonal_variances(nn.Sequential(nn.Linear(2, 3), nn.Unflatten(1, (3, 1))).double(), x)


def test_a_model_without_trainable_parameters(x):
    with pytest.raises(UserError, match="no trainable parameters"):
        v.diagonal_variances(nn.Flatten(), x)


def test_unknown_estimators(net, x):
    with pytest.raises(UnknownNameError, match="did you mean 'rademacher'"):
        v.estimate_fisher(net, x, "radamacher")
    with pytest.raises(UnknownNameError, match="did you mean 'mixture'"):
        v.diagonal_variances(net, x, estimators=("mixtur",))
    with pytest.raises(UnknownNameError, match="unknown estimator 'exakt'"):
        v.monte_carlo_check(net, x, "exakt")
    with pytest.raises(UserError, match="no estimators given"):
        v.diagonal_variances(net, x, estimators=())
    with pytest.raises(UnknownNameError, match="unknown moments"):
        v.diagonal_bounds(net, x, moments="exat")


def test_draw_planning(net, x):
    with pytest.raises(UnknownNameError, match="unknown fisher 'rademacer'"):
        v.draws_for_relative_error(net, x, 0.1, "rademacer")
    with pytest.raises(UserError, match="uses the true labels"):
        v.draws_for_relative_error(net, x, 0.1, "empirical")
    for error in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match=r"relative_error = .*positive"):
            v.draws_for_relative_error(net, x, error)
    with pytest.raises(UserError, match="examples = 0"):
        v.draws_for_relative_error(net, x, 0.1, examples=0)


def test_monte_carlo_coordinates_and_repeats(net, x):
    with pytest.raises(UnknownNameError, match=r"unknown parameter '0\.wieght'; did you mean '0\.weight'"):
        v.monte_carlo_check(net, x, "mc", coordinates={"0.wieght": [0]})
    with pytest.raises(UserError, match=r"position 6 of '0\.weight' is outside 0…5"):
        v.monte_carlo_check(net, x, "mc", coordinates={"0.weight": [6]})
    with pytest.raises(UserError, match="no coordinates"):
        v.monte_carlo_check(net, x, "mc", coordinates={})
    with pytest.raises(UserError, match="repeats = 3"):
        v.monte_carlo_check(net, x, "mc", repeats=3)


def test_full_tensors_of_a_large_net_point_to_the_diagonal_functions(x):
    big = nn.Sequential(nn.Linear(2, 200), nn.Linear(200, 30)).double()
    with pytest.raises(UserError, match="use diagonal_variances"):
        v.fisher_covariances(big, x)
    with pytest.raises(UserError, match="use the diagonal functions"):
        v.derivatives(big, x)


def test_operators_without_forward_derivatives_are_named_and_first_order_estimators_still_work(x):
    made = nn.utils.parametrizations.weight_norm(nn.Linear(2, 3))
    net = nn.Sequential(made, nn.Tanh(), nn.Linear(3, 2)).double()
    with pytest.raises(UserError, match=r"no forward-mode derivative of _weight_norm\w*; use mc, rademacher"):
        v.diagonal_variances(net, x)
    assert v.diagonal_variances(net, x, estimators=("mc",)).variance["mc"]["2.weight"].max() > 0


def test_modes_are_restored_after_an_error(net, x):
    net.train()
    with pytest.raises(UserError):
        v.diagonal_variances(net, x * torch.nan)
    assert all(m.training for m in net.modules())
