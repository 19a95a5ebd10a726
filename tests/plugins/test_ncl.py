"""Natural continual learning: what its step is, and what it promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import Spy, learner, measured_steps, tasks, weights, with_and_without_a_break
from nets import flat, mlp, unflat
from torch import Tensor

from ong.curvature import EKFAC, find_blocks
from ong.plugins import NCL, ONG

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")


def dense(ekfac: EKFAC, blocks: Any) -> Tensor:
    """F as a matrix, column by column."""
    size = sum(b.shape[0] * b.shape[1] for b in blocks.values())
    units = torch.eye(size, dtype=torch.float64)
    return torch.stack([flat(ekfac.apply(unflat(unit, blocks), power=1.0), blocks) for unit in units], 1)


class Steps(Spy):
    """Notes the weights beside the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Tensor] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        super().before_update(strategy, **kwargs)
        blocks = find_blocks(strategy.model)
        self.weights.append(flat({n: b.values() for n, b in blocks.items()}, blocks))


def second_task(batch: int = 8, **options: Any) -> tuple[Tensor, Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """F, μ, the weights and the (g, v) of each step of a second task, all flat."""
    model, plugin, before, after = mlp(4, 5, 3), NCL(**options), Steps(), Spy()
    blocks = find_blocks(model)
    strategy = learner(model, before, plugin, after, batch=batch, epochs=2)
    stream = tasks(2, width=4).train_stream
    strategy.train(stream[0], eval_streams=[])
    fisher, anchor = dense(plugin.ekfac, blocks), flat({n: b.values() for n, b in blocks.items()}, blocks)
    for spy in (before, after):
        spy.seen.clear()
    before.weights.clear()
    strategy.train(stream[1], eval_streams=[])
    pairs = [(flat(g, blocks), flat(v, blocks)) for g, v in zip(before.seen, after.seen, strict=True)]
    return fisher, anchor, torch.stack(before.weights), pairs


def test_the_default_is_the_published_update_times_the_damping() -> None:
    """v = λ[Λ⁻¹∇ℓ + (θ − μ)] with Λ = F + λ inverted as a matrix."""
    damping = 0.02
    fisher, anchor, thetas, steps = second_task(damping=damping)
    precision = fisher + damping * torch.eye(len(fisher), dtype=torch.float64)
    for theta, (g, v) in zip(thetas, steps, strict=True):
        expected = damping * (torch.linalg.solve(precision, g) + theta - anchor)
        torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-12)
    assert (thetas[-1] - anchor).norm() > 1e-3  # the pull had something to pull


def test_without_a_prior_precision_the_pull_acts_along_the_fisher_only() -> None:
    damping, pull = 0.02, 0.3
    fisher, anchor, thetas, steps = second_task(damping=damping, pull=pull, prior_precision=0.0)
    metric = torch.eye(len(fisher), dtype=torch.float64) + fisher / damping
    for theta, (g, v) in zip(thetas, steps, strict=True):
        expected = torch.linalg.solve(metric, g + pull * fisher @ (theta - anchor))
        torch.testing.assert_close(v, expected, rtol=1e-9, atol=1e-12)


def test_without_pull_it_is_ong_in_the_prior_metric_without_projection() -> None:
    ends = []
    options: dict[str, Any] = {"damping": 0.01, "fisher": "logit", "seed": 3}
    for plugin in (NCL(pull=0.0, **options), ONG(metric="prior", projection="none", **options)):
        torch.manual_seed(0)
        model = mlp(6, 8, 3)
        strategy = learner(model, plugin)
        for experience in tasks(3).train_stream:
            strategy.train(experience, eval_streams=[])
        ends.append(weights(model))
    assert torch.equal(*ends)


@pytest.mark.parametrize("seed", range(6))
def test_without_pull_every_step_descends(seed: int) -> None:
    for _, cosine in measured_steps(NCL(pull=0.0, damping=0.01, seed=seed), seed, 8):
        assert cosine >= -1e-12


def test_every_step_descends_the_penalised_loss_and_with_a_strong_pull_not_always_the_loss() -> None:
    damping, pull = 0.02, 1500.0  # lr·γλ = 1.5: the pull oversteps μ
    fisher, anchor, thetas, steps = second_task(batch=24, damping=damping, pull=pull)
    precision = fisher + damping * torch.eye(len(fisher), dtype=torch.float64)
    for theta, (g, v) in zip(thetas, steps, strict=True):
        assert (g + pull * precision @ (theta - anchor)) @ v >= 0
    assert min(float(g @ v) for g, v in steps) < 0


def test_old_outputs_move_at_first_order() -> None:
    assert max(leak for leak, _ in measured_steps(NCL(pull=0.0, damping=0.01), 0, 8)) > 0.05


def test_a_break_changes_nothing() -> None:
    whole, resumed = with_and_without_a_break(lambda: NCL(damping=0.01))
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be positive"),
        ({"prior_precision": 0.2, "damping": 0.1}, "between 0 and damping"),
        ({"prior_precision": -0.1}, "between 0 and damping"),
        ({"pull": -1.0}, "pull must be at least 0"),
        ({"fisher": "true"}, "unknown Fisher type"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NCL(**options)


def test_outside_a_task_the_distance_from_the_anchor_is_in_the_original_coordinates() -> None:
    plugin, model = NCL(damping=0.05), mlp(6, 5, 3)
    strategy = learner(model, plugin)
    for experience in tasks(2).train_stream:
        strategy.train(experience, eval_streams=[])
    blocks = find_blocks(model)
    assert plugin._task.metric is not None
    distances = plugin._anchor.distance(blocks, plugin._task.metric, plugin._task.held)
    assert all(not distance.any() for distance in distances.values())  # μ are the weights the last task ended with
