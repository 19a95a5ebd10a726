"""OGD+: the stored gradients are those of the present network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import learner, measured_steps, tasks, with_and_without_a_break
from nets import flat, jacobian, mlp
from torch import Tensor

from ong.curvature import find_blocks
from ong.plugins import OGD

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")


def examples_of(experience: Any) -> tuple[Tensor, Tensor]:
    return torch.stack([e[0] for e in experience.dataset]), torch.tensor([e[1] for e in experience.dataset])


def after_two_tasks(recompute: bool) -> tuple[Any, OGD, Any]:
    model, plugin = mlp(6, 8, 3), OGD(directions_per_task=8, recompute=recompute)
    strategy = learner(model, plugin, lr=0.3)
    stream = tasks(3, examples=8).train_stream
    for experience in stream[:2]:
        strategy.train(experience, eval_streams=[])
    return strategy, plugin, stream


def test_directions_are_gradients_of_all_stored_examples_at_the_present_weights() -> None:
    strategy, plugin, _ = after_two_tasks(recompute=True)
    blocks = find_blocks(strategy.model)
    assert len(plugin.memory) == 16
    for batch, start in zip(plugin.examples, (0, 8), strict=True):
        expected = jacobian(strategy.model, batch[0], blocks)[torch.arange(8), batch[1]]
        found = flat({n: r.dense(torch.arange(start, start + 8)) for n, r in plugin.memory.rows.items()}, blocks)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_plain_ogd_keeps_those_of_the_weights_each_task_ended_with() -> None:
    (_, plain, _), (strategy, plus, _) = after_two_tasks(False), after_two_tasks(True)
    blocks = find_blocks(strategy.model)
    old, new = (
        flat({n: r.dense(torch.arange(16)) for n, r in plugin.memory.rows.items()}, blocks) for plugin in (plain, plus)
    )
    torch.testing.assert_close(old[8:], new[8:], rtol=1e-10, atol=1e-12)
    assert (old[:8] - new[:8]).norm() > 0.01 * new[:8].norm()
    assert not plain.examples


@pytest.mark.parametrize(("recompute", "order"), [(True, 2), (False, 1)])
def test_outputs_of_the_first_task_stay_still_at_first_order_in_the_third(recompute: bool, order: int) -> None:
    """Halving the rate of a step quarters a second-order change: OGD's directions are two tasks old, OGD+'s are not."""
    changes = []
    for lr in (2e-4, 1e-4):
        torch.manual_seed(0)
        strategy, _, stream = after_two_tasks(recompute)
        x, y = examples_of(stream[0])
        before = strategy.model(x).gather(1, y[:, None]).detach()
        strategy.optimizer.param_groups[0]["lr"] = lr
        strategy.train(stream[2], eval_streams=[])  # one batch of all 8 examples
        changes.append(float((strategy.model(x).gather(1, y[:, None]).detach() - before).norm()))
    assert changes[0] / changes[1] == pytest.approx(2**order, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_every_step_descends(seed: int) -> None:
    for _, cosine in measured_steps(OGD(directions_per_task=6, recompute=True, seed=seed), seed, 8):
        assert cosine >= 0


def test_memory_counts_the_stored_examples() -> None:
    (_, plain, _), (_, plus, _) = after_two_tasks(False), after_two_tasks(True)
    assert plus.memory_bytes - plain.memory_bytes == 2 * 8 * 8 * (6 + 1 + 1)  # inputs, targets, task labels


def test_a_break_changes_nothing() -> None:
    whole, resumed = with_and_without_a_break(lambda: OGD(directions_per_task=4, recompute=True))
    assert torch.equal(whole, resumed)
