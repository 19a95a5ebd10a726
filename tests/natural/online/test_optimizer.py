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


def brute_force_step(
    model: nn.Sequential, x: Tensor, y: Tensor, damping: float, generator: torch.Generator
) -> list[Tensor]:
    """ΔW_i = −(1/L) (Λ̃+√λ)⁻¹ ∇ (Λ+√λ)⁻¹ of a tanh network, bias last, from dense matrices."""
    inputs, pre, h = [], [], x
    for layer in model:
        if isinstance(layer, nn.Linear):
            inputs.append(torch.cat([h, torch.ones(len(h), 1, dtype=h.dtype)], 1).detach())
            h = layer(h)
            pre.append(h)
        else:
            h = layer(h)
    noise = torch.randn(h.shape, generator=generator, dtype=h.dtype)
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
    expected = brute_force_step(model, x, y, 0.04, torch.Generator().manual_seed(7))
    before = weights(model)
    loss = NaturalGradient(model, lr=0.5, damping=0.04, seed=7).step(lambda: (model(x), y))
    torch.testing.assert_close(moved(model, before), [0.5 * s for s in expected], rtol=1e-10, atol=1e-13)
    model, x, y = problem(5, 4, 6, 3)
    assert loss == pytest.approx(0.5 * float((model(x) - y).detach().square().sum(1).mean()), rel=1e-14)


def test_without_a_trust_region_the_defaults_are_the_published_algorithm(problem: Problem) -> None:
    """α = 1, λ from 1 by Levenberg and Marquardt's rule with (1 − α/2) ∇·ΔW, K-FAC of each batch; nothing else."""
    model, x, y = problem(5, 20, 20, 3)
    optimizer, draws = NaturalGradient(model, trust=False, seed=7), torch.Generator().manual_seed(7)
    damping = 1.0
    for _ in range(30):
        steps = brute_force_step(model, x, y, damping, draws)
        before = weights(model)
        loss = 0.5 * (model(x) - y).square().sum() / len(x)
        flat, loss = torch.autograd.grad(loss, list(model.parameters())), loss.detach()
        gradient = [torch.cat([w, b[:, None]], 1) for w, b in zip(flat[::2], flat[1::2], strict=True)]
        predicted = 0.5 * sum(float((g * s).sum()) for g, s in zip(gradient, steps, strict=True))
        assert optimizer.step(lambda: (model(x), y)) == pytest.approx(float(loss), rel=1e-12)
        torch.testing.assert_close(moved(model, before), steps, rtol=1e-7, atol=1e-10)
        ratio = (0.5 * float((model(x) - y).detach().square().sum()) / len(x) - float(loss)) / predicted
        damping = max(damping * (1.5 if ratio < 0.25 else 2 / 3 if ratio > 0.75 else 1.0), 1e-3)
        assert optimizer.param_groups[0]["damping"] == pytest.approx(damping, rel=1e-12)


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
    optimizer = NaturalGradient(model, damping=LevenbergMarquardt(initial=0.5, floor=0.01), trust=False)
    kinds = set()
    for _ in range(40):
        optimizer.step(lambda: (model(x), y))
        report = optimizer.report
        assert report is not None
        assert report.ratio is not None
        after = 0.5 * float((model(x) - y).detach().square().sum(1).mean())
        assert report.accepted
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


def test_an_unbounded_rate_too_large_is_warned_of(problem: Problem) -> None:
    model, _, _ = problem()
    for options in ({"trust": False}, {"damping": 0.1}):
        with pytest.warns(UserWarning, match="effective rate of .* lower lr below 2"):
            NaturalGradient(model, lr=200.0, **options)  # type: ignore[arg-type]


def test_curvature_is_measured_and_inverted_only_when_due(problem: Problem, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from ong.natural.online import KroneckerInverse, Moments

    model, x, y = problem()
    calls = {"add": 0, "of": 0}
    add, of = Moments.add, KroneckerInverse.of

    def counted_add(self, *args):  # type: ignore[no-untyped-def]
        calls["add"] += 1
        add(self, *args)

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
    expected = brute_force_step(model, x, y, 0.1, torch.Generator().manual_seed(0))
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
        ({"likelihood": "poisson"}, "unknown likelihood 'poisson'"),
    ],
)
def test_bad_settings_are_refused(problem: Problem, options: dict[str, object], message: str) -> None:
    model, _, _ = problem()
    with pytest.raises(UserError, match=message):
        NaturalGradient(model, **options)  # type: ignore[arg-type]


def test_a_model_without_supported_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no parameter to train"):
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_task_after_a_stall_is_learned_as_by_a_fresh_optimizer(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, n, generator=generator, dtype=dtype) for n in (5, 2))

    def after(optimizer: NaturalGradient, model: nn.Module, target: Tensor, steps: int) -> float:
        for _ in range(steps):
            optimizer.step(lambda: (model(x), target))
        return 0.5 * float((model(x) - target).detach().square().sum(1).mean())

    tired, fresh = (seeded(nn.Linear(5, 2), torch.Generator().manual_seed(1)).to(dtype) for _ in range(2))
    optimizer = NaturalGradient(tired)
    least = after(optimizer, tired, y, 400)  # long after its loss shows any change
    assert optimizer.param_groups[0]["damping"] < 100
    assert after(NaturalGradient(fresh), fresh, -y, 30) == pytest.approx(least, rel=0.01)
    assert after(optimizer, tired, -y, 30) == pytest.approx(least, rel=0.01)


def test_damping_is_bounded() -> None:
    schedule = LevenbergMarquardt(initial=1.0, floor=0.5, ceiling=2.0)
    assert schedule.updated(1.9, 1.0, -1.0) == 2.0
    assert schedule.updated(0.6, -1.0, -1.0) == 0.5
    assert schedule.updated(1.0, 1.0, -1e-9, resolution=1e-8) == 1.0
    with pytest.raises(UserError, match="0 < floor ≤ initial ≤ ceiling; got 0.5, 3.0 and 2.0"):
        LevenbergMarquardt(initial=3.0, floor=0.5, ceiling=2.0)


def test_what_a_step_did_is_measured_with_the_same_masks(problem: Problem) -> None:
    model, x, y = problem()
    model.append(nn.Dropout(0.5))
    torch.manual_seed(0)
    optimizer = NaturalGradient(model, lr=1e-9)
    drawn = []

    def closure() -> tuple[Tensor, Tensor]:
        outputs = model(x)
        drawn.append(torch.rand(()))
        return outputs, y

    optimizer.step(closure)
    assert optimizer.report is not None
    assert optimizer.report.actual == pytest.approx(0, abs=1e-6)
    assert drawn[0] == drawn[1]
    torch.manual_seed(0)
    model(x)
    torch.rand(())
    expected = torch.rand(())
    torch.manual_seed(0)
    optimizer.step(closure)
    assert torch.rand(()) == expected  # the second look leaves the generator alone


def test_a_layer_whose_weights_other_code_reads_is_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(self.a(x), self.b.weight, self.b.bias)

    model = seeded(Functional(), torch.Generator().manual_seed(0))
    x, y = torch.ones(5, 4, dtype=torch.float64), torch.zeros(5, 2, dtype=torch.float64)
    before = weights(model)
    with pytest.raises(UserError, match="layer 'b' has a gradient although its module was not called"):
        NaturalGradient(model).step(lambda: (model(x), y))
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))


def test_a_layer_first_used_between_two_measurements_is_measured_then(problem: Problem) -> None:
    model, x, y = problem(5, 4, 3)
    head, other = model[-1], seeded(nn.Linear(4, 3), torch.Generator().manual_seed(5))
    model.append(other)

    def run(last: nn.Module) -> tuple[Tensor, Tensor]:
        return last(model[:-2](x)), y

    optimizer = NaturalGradient(model, factors_every=10, refresh_every=10, warmup=0)
    optimizer.step(lambda: run(head))
    before = weights(other)
    optimizer.step(lambda: run(other))
    assert not torch.equal(other.weight, before[0])


@pytest.mark.parametrize("ekfac", [False, True])
@pytest.mark.parametrize("refresh_every", [1, 4])
def test_a_refused_batch_leaves_the_running_averages_alone(problem: Problem, ekfac: bool, refresh_every: int) -> None:
    model, x, y = problem()
    twin, _, _ = problem()
    options = {"average": 0.9, "ekfac": ekfac, "damping": 0.1, "refresh_every": refresh_every, "warmup": 1}
    one, two = NaturalGradient(model, **options), NaturalGradient(twin, **options)  # type: ignore[arg-type]
    one.step(lambda: (model(x), y))
    two.step(lambda: (twin(x), y))
    broken = torch.cat([x, torch.full_like(x[:1], math.nan)])
    with one.recording():
        outputs = model(broken)
    with pytest.raises(NonFiniteStepError, match="the factors of layer '0' are not finite"):
        one.step(outputs[:-1].square().mean(), outputs)
    one._generator.set_state(two._generator.get_state())  # it has drawn for the refused batch
    one.step(lambda: (model(x), y))
    two.step(lambda: (twin(x), y))
    torch.testing.assert_close(weights(model), weights(twin), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("likelihood", "shape", "message"),
    [
        ("categorical", (6, 5, 7), "takes outputs .examples, classes., got .6, 5, 7."),
        ("gaussian", (6,), "outputs must be .examples, …. of at least one example, got .6."),
        ("gaussian", (0, 3), "of at least one example, got .0, 3."),
    ],
)
def test_outputs_of_another_layout_are_refused(likelihood: str, shape: tuple[int, ...], message: str) -> None:
    model = seeded(nn.Linear(2, 7), torch.Generator().manual_seed(0))
    x = torch.ones(6, 2, dtype=torch.float64)
    with pytest.raises(UserError, match=message):
        NaturalGradient(model, likelihood=likelihood).step(
            lambda: (model(x).sum() * torch.ones(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64))
        )


def test_what_is_trained_is_settled_by_whole_layers(problem: Problem) -> None:
    model, x, y = problem()
    optimizer = NaturalGradient(model)
    with pytest.raises(UserError, match="trains the layers of the model it was given"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})
    first = model[0]
    first.weight.requires_grad_(False)
    with pytest.raises(UserError, match="layer '0' is frozen in part"):
        optimizer.step(lambda: (model(x), y))
    first.bias.requires_grad_(False)
    before = weights(model)
    optimizer.step(lambda: (model(x), y))
    still = [torch.equal(a, b) for a, b in zip(weights(model), before, strict=True)]
    assert still[:2] == [True, True]
    assert not any(still[2:])


def test_a_state_of_another_kind_of_curvature_is_refused(problem: Problem) -> None:
    model, x, y = problem()
    one = NaturalGradient(model, ekfac=True)
    one.step(lambda: (model(x), y))
    with pytest.raises(UserError, match="of an optimizer with ekfac=True; make this one so"):
        NaturalGradient(model).load_state_dict(one.state_dict())
