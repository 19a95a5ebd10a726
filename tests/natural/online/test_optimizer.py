from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from nets import seeded
from torch import Tensor, nn

from ong.curvature import find_blocks, record
from ong.errors import UserError
from ong.natural.deep_linear import DeepLinearNetwork, LevenbergMarquardt, LinearProblem, paper_step
from ong.natural.online import Gaussian, NaturalGradient, NonFiniteStepError, batch_moments

Problem = Callable[..., tuple[nn.Sequential, Tensor, Tensor]]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def brute_force_step(model: nn.Sequential, x: Tensor, y: Tensor, damping: float, seed: int) -> list[Tensor]:
    """ΔW_i = −(1/L) (Λ̃+√λ)⁻¹ ∇ (Λ+√λ)⁻¹ of a tanh network, bias last, from dense matrices."""
    inputs, pre, h = [], [], x
    for layer in model:
        if isinstance(layer, nn.Linear):
            inputs.append(torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], 1).detach())
            h = layer(h)
            pre.append(h)
        else:
            h = layer(h)
    noise = torch.randn(h.shape, generator=torch.Generator().manual_seed(seed), dtype=h.dtype)
    deltas = torch.autograd.grad(h, pre, noise, retain_graph=True)
    errors = torch.autograd.grad(0.5 * (h - y).square().sum() / len(x), pre)
    steps = []
    for a, d, e in zip(inputs, deltas, errors, strict=True):
        outputs_cov = d.T @ d / len(x) + damping**0.5 * torch.eye(d.shape[1], dtype=d.dtype)
        inputs_cov = a.T @ a / len(x) + damping**0.5 * torch.eye(a.shape[1], dtype=d.dtype)
        gradient = e.T @ a
        solved = torch.linalg.solve(torch.kron(outputs_cov, inputs_cov), gradient.reshape(-1))
        steps.append(-solved.reshape(gradient.shape) / len(pre))
    return steps


def moved(model: nn.Module, before: list[Tensor]) -> list[Tensor]:
    """The change of each Linear's matrix, bias in the last column."""
    change = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    return [torch.cat([w, b[:, None]], 1) for w, b in zip(change[::2], change[1::2], strict=True)]


def test_a_step_is_kfac_over_the_depth_from_explicit_factors(problem: Problem) -> None:
    model, x, y = problem(5, 4, 6, 3)
    expected = brute_force_step(model, x, y, 0.04, seed=7)
    before = weights(model)
    loss = NaturalGradient(model, lr=0.5, damping=0.04, seed=7).step(lambda: (model(x), y))
    torch.testing.assert_close(moved(model, before), [0.5 * s for s in expected], rtol=1e-10, atol=1e-13)
    model, x, y = problem(5, 4, 6, 3)
    assert loss == pytest.approx(0.5 * float((model(x) - y).detach().square().sum(1).mean()), rel=1e-14)


class ExactGaussian(Gaussian):
    """Cotangents whose outer products average to the identity exactly: √C e_c for example c, c + C, …"""

    def cotangent(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        count, width = outputs.shape
        return width**0.5 * torch.eye(width, dtype=outputs.dtype).repeat(count // width, 1)


@pytest.mark.parametrize("damping", [1e-8, 0.04])
def test_with_exact_covariances_a_deep_linear_net_takes_the_paper_s_step(damping: float) -> None:
    dims = [3, 5, 4, 2]
    generator = torch.Generator().manual_seed(3)
    network = DeepLinearNetwork.random(dims, generator=generator)
    x = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    model = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(dims))).double()
    with torch.no_grad():
        for p, w in zip(model.parameters(), network.weights, strict=True):
            p.copy_(w)
    expected = paper_step(network, LinearProblem.from_batch(x, y, torch.eye(2, dtype=torch.float64)), damping=damping)
    before = weights(model)
    NaturalGradient(model, likelihood=ExactGaussian(), damping=damping).step(lambda: (model(x), y))
    change = [p.detach() - b for p, b in zip(model.parameters(), before, strict=True)]
    # The factors of the wide layers are singular: rounding (1e-16) in their null spaces is over √λ twice.
    torch.testing.assert_close(change, expected, rtol=1e-9, atol=1e-14 / damping)


def test_convolutions_sum_curvature_over_positions() -> None:
    generator = torch.Generator().manual_seed(0)
    model = seeded(nn.Sequential(nn.Conv2d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(8, 2)), generator)
    x = torch.randn(6, 1, 3, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    blocks = find_blocks(model)
    with record(blocks) as tape:
        outputs = model(x)
    u = torch.randn(6, 2, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    inputs_cov, outputs_cov = batch_moments(tape.factors(outputs, u)["0"])
    (0.5 * (model(x) - y).square().sum() / 6).backward()
    gradient = blocks["0"].gradient()
    dense = torch.kron(
        outputs_cov + 0.2 * torch.eye(2, dtype=torch.float64),
        inputs_cov + 0.2 * torch.eye(5, dtype=torch.float64),
    )
    expected = -torch.linalg.solve(dense, gradient.reshape(-1)).reshape(2, 5) / 2
    before = blocks["0"].values()
    NaturalGradient(model, damping=0.04, seed=7).step(lambda: (model(x), y))
    torch.testing.assert_close(blocks["0"].values() - before, expected, rtol=1e-10, atol=1e-13)


def test_image_outputs_count_as_flat_ones(problem: Problem) -> None:
    model, x, y = problem(6, 4, 6)
    other, _, _ = problem(6, 4, 6)
    NaturalGradient(model, damping=0.1).step(lambda: (model(x), y))
    NaturalGradient(other, damping=0.1).step(lambda: (other(x).reshape(-1, 1, 2, 3), y.reshape(-1, 1, 2, 3)))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


def test_a_loss_of_one_s_own_takes_the_same_step_as_the_closure(problem: Problem) -> None:
    model, x, y = problem()
    other, _, _ = problem()
    NaturalGradient(model, damping=0.1).step(lambda: (model(x), y))
    optimizer = NaturalGradient(other, damping=0.1)
    with optimizer.recording():
        outputs = other(x)
    optimizer.step(Gaussian().loss(outputs, y), outputs)
    assert all(torch.equal(a, b) for a, b in zip(weights(model), weights(other), strict=True))


def test_the_first_step_with_averages_is_the_one_without(problem: Problem) -> None:
    changes = []
    for average in (0.0, 0.95):
        model, x, y = problem()
        before = weights(model)
        NaturalGradient(model, damping=0.1, average=average).step(lambda: (model(x), y))  # noqa: B023
        changes.append(moved(model, before))
    torch.testing.assert_close(changes[1], changes[0], rtol=1e-12, atol=1e-14)


def test_momentum_adds_the_update_before(problem: Problem) -> None:
    model, x, y = problem()
    optimizer = NaturalGradient(model, lr=0.1, damping=1.0, momentum=0.9)
    twin, _, _ = problem()
    plain = NaturalGradient(twin, lr=0.1, damping=1.0)
    start = weights(model)
    optimizer.step(lambda: (model(x), y))
    plain.step(lambda: (twin(x), y))
    first = moved(model, start)
    between = weights(model)
    optimizer.step(lambda: (model(x), y))
    plain.step(lambda: (twin(x), y))
    fresh = moved(twin, between)
    torch.testing.assert_close(
        moved(model, between),
        [f + 0.9 * b for f, b in zip(fresh, first, strict=True)],
        rtol=1e-10,
        atol=1e-13,
    )


def test_damping_follows_levenberg_and_marquardt_on_the_batch(problem: Problem) -> None:
    model, x, y = problem(5, 20, 20, 3)
    optimizer = NaturalGradient(model, damping=LevenbergMarquardt(initial=0.5, floor=0.01))
    kinds = set()
    for _ in range(40):
        optimizer.step(lambda: (model(x), y))
        report = optimizer.report
        assert report is not None
        assert report.ratio is not None
        after = 0.5 * float((model(x) - y).detach().square().sum(1).mean())
        if report.accepted:
            assert report.actual == pytest.approx(after - report.loss, rel=1e-12)
        factor = 1.5 if report.ratio < 0.25 else 2 / 3 if report.ratio > 0.75 else 1.0
        kinds.add(factor)
        expected = max(report.damping * factor, 0.01)
        assert optimizer.param_groups[0]["damping"] == pytest.approx(expected, rel=1e-12)
    assert kinds == {1.5, 1.0, 2 / 3}


def test_prediction_is_right_to_first_order_where_the_step_is_exact() -> None:
    """In a deep linear net with wide layers the loss falls to (1 − α)² of itself for small α."""
    generator = torch.Generator().manual_seed(0)
    model = seeded(nn.Sequential(nn.Linear(3, 9, bias=False), nn.Linear(9, 3, bias=False)), generator)
    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.randn(3, 3, generator=generator, dtype=torch.float64)
    schedule = LevenbergMarquardt(initial=1e-12, floor=1e-12)
    optimizer = NaturalGradient(model, likelihood=ExactGaussian(), lr=1e-4, damping=schedule)
    loss = optimizer.step(lambda: (model(x), y))
    report = optimizer.report
    assert report is not None
    # The product W_2W_1 is quadratic in a step: O(α) = 1e-4 times its condition. √λ = 1e-6 over eigenvalues.
    assert report.ratio == pytest.approx(1.0, abs=0.01)
    assert report.predicted == pytest.approx(((1 - 1e-4) ** 2 - 1) * loss, rel=1e-4)


def test_a_step_that_raises_its_loss_is_undone_to_the_bit(problem: Problem) -> None:
    model, x, y = problem()
    with pytest.warns(UserWarning, match="effective rate of .* lower lr below 2"):
        optimizer = NaturalGradient(model, lr=200.0, damping=LevenbergMarquardt(initial=0.1, floor=0.01))
    before = weights(model)
    optimizer.step(lambda: (model(x), y))
    assert optimizer.report is not None
    assert not optimizer.report.accepted
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert optimizer.param_groups[0]["damping"] == pytest.approx(0.15)


def test_curvature_is_measured_and_inverted_only_when_due(problem: Problem, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from ong.natural.online import KroneckerInverse, Moments

    model, x, y = problem()
    calls = {"add": 0, "of": 0}
    add, of = Moments.add, KroneckerInverse.of

    def counted_add(self, factors, decay):  # type: ignore[no-untyped-def]
        calls["add"] += 1
        add(self, factors, decay)

    def counted_of(*args, **kwargs):  # type: ignore[no-untyped-def]
        calls["of"] += 1
        return of(*args, **kwargs)

    monkeypatch.setattr(Moments, "add", counted_add)
    monkeypatch.setattr(KroneckerInverse, "of", counted_of)
    optimizer = NaturalGradient(model, damping=1.0, factors_every=2, refresh_every=6, warmup=3, average=0.5)
    for _ in range(13):
        optimizer.step(lambda: (model(x), y))
    # Two layers: measured at 0, 1, 2, 4, 6, 8, 10, 12; inverted at 0, 1, 2, 6, 12.
    assert calls == {"add": 16, "of": 10}


def test_schedulers_set_the_rate(problem: Problem) -> None:
    model, x, y = problem()
    optimizer = NaturalGradient(model, lr=1.0, damping=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    expected = brute_force_step(model, x, y, 0.1, seed=0)
    scheduler_before = weights(model)
    optimizer.step(lambda: (model(x), y))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.5
    torch.testing.assert_close(moved(model, scheduler_before), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("ekfac", [False, True])
def test_a_nan_is_an_error_and_leaves_the_weights(problem: Problem, ekfac: bool) -> None:
    model, x, y = problem()
    optimizer = NaturalGradient(model, ekfac=ekfac)
    optimizer.step(lambda: (model(x), y))
    before = weights(model)
    with pytest.raises(NonFiniteStepError, match=r"the loss is nan at step 1; .*before it; .*lower lr") as caught:
        optimizer.step(lambda: (model(x * math.nan), y))
    assert caught.value.step == 1
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_an_infinite_curvature_is_an_error_and_leaves_the_weights(problem: Problem) -> None:
    class Loud(Gaussian):
        def cotangent(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
            return torch.full_like(outputs, 1e200)

    model, x, y = problem()
    before = weights(model)
    with pytest.raises(NonFiniteStepError, match=r"at step 0.*damping"):
        NaturalGradient(model, likelihood=Loud()).step(lambda: (model(x), y))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be a positive number; got 0"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\)"),
        ({"damping": 0.0}, "damping must be a positive number"),
        ({"damping": -1.0}, "damping must be a positive number"),
        ({"average": 1.0}, r"average .* must lie in \[0, 1\)"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"refresh_every": 0}, "refresh_every must be at least 1"),
        ({"factors_every": 4, "refresh_every": 7}, "multiple of factors_every = 4; got 7, the nearest is 8"),
        ({"warmup": -1}, "warmup must be"),
        ({"max_rise": -0.1}, "max_rise must be"),
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson'"),
    ],
)
def test_bad_settings_are_refused(problem: Problem, options: dict[str, object], message: str) -> None:
    model, _, _ = problem()
    with pytest.raises(UserError, match=message):
        NaturalGradient(model, **options)  # type: ignore[arg-type]


def test_a_model_without_supported_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no trainable layer of a supported type"):
        NaturalGradient(nn.Sequential(nn.Tanh()))


def test_targets_outside_the_support_are_refused_before_anything_moves(problem: Problem) -> None:
    model, x, y = problem()
    before = weights(model)
    with pytest.raises(UserError, match=r"Bernoulli.*\[0, 1\]"):
        NaturalGradient(model, likelihood="bernoulli").step(lambda: (model(x), y))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_a_loss_without_its_forward_or_with_adaptive_damping_is_refused(problem: Problem) -> None:
    model, x, y = problem()
    optimizer = NaturalGradient(model, damping=0.1)
    outputs = model(x)
    with pytest.raises(UserError, match=r"with optimizer\.recording"):
        optimizer.step(Gaussian().loss(outputs, y), outputs)
    adaptive = NaturalGradient(model)
    with adaptive.recording():
        outputs = model(x)
    with pytest.raises(UserError, match="Levenberg-Marquardt"):
        adaptive.step(Gaussian().loss(outputs, y), outputs)


def test_what_torch_s_own_optimizers_take_is_refused_with_the_remedy() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(UserError, match="takes the model itself, not its parameters, got generator"):
        NaturalGradient(model.parameters())  # type: ignore[arg-type]
    optimizer = NaturalGradient(model)
    with pytest.raises(UserError, match=r"must return \(outputs, targets\) of a batch, got Tensor"):
        optimizer.step(lambda: model(torch.ones(4, 3)).square().mean())
