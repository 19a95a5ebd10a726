"""OGD+: the stored gradients are those of the present network."""

from __future__ import annotations

import pytest
import torch
from methods.matrices import EXACT, Learner, Task, columns, off, tasks, vectors

from ong.methods import OGD, Method, OGDPlus


def after_two(method: Method, lr: float = 0.3) -> tuple[Learner, list[Task]]:
    stream = tasks(3, examples=8)
    return Learner(method, lr=lr).learn(*stream[:2]), stream


def test_directions_are_gradients_of_all_stored_examples_at_the_present_weights() -> None:
    learner, stream = after_two(OGDPlus(directions_per_task=8))
    stored = [torch.cat(part) for part in zip(*learner.method.stored, strict=True)]
    expected = learner.gradients(stored)
    learner.begin(stream[2])
    g = columns(learner.method.memory, learner.blocks)
    torch.testing.assert_close(g, expected, **EXACT)
    assert stored[0].sum(1).sort().values.equal(torch.cat([part[0] for part in stream[:2]]).sum(1).sort().values)
    for vector in vectors(learner.blocks):
        # sixteen gradients of one net are nearly dependent: the Gram squares their condition
        torch.testing.assert_close(learner.update(vector), off(g) @ vector, rtol=1e-6, atol=1e-7)


def test_plain_ogd_keeps_those_of_the_weights_each_task_ended_with() -> None:
    (plain, stream), (plus, _) = after_two(OGD(directions_per_task=8)), after_two(OGDPlus(directions_per_task=8))
    old, new = (columns(one.begin(stream[2]).method.memory, one.blocks) for one in (plain, plus))
    torch.testing.assert_close(plain.weights, plus.weights, rtol=0, atol=0)  # the second task had one memory to obey
    assert (old[:, :8] - new[:, :8]).norm() > 0.01 * new[:, :8].norm()


@pytest.mark.parametrize(("method", "order"), [(OGDPlus, 2), (OGD, 1)])
def test_outputs_of_the_first_task_stay_still_at_first_order_in_the_third(method: type[Method], order: int) -> None:
    """Halving the rate of a step quarters a second-order change: OGD's directions are two tasks old, OGD+'s are not."""
    changes = []
    for lr in (2e-4, 1e-4):
        learner, stream = after_two(method(directions_per_task=8))  # type: ignore[call-arg]
        (x, y), last = stream[0], stream[2]
        before = learner.model(x).detach().gather(1, y[:, None])
        learner.method.begin_task(last)
        learner.optimizer.param_groups[0]["lr"] = lr
        learner.step(last)
        changes.append(float((learner.model(x).detach().gather(1, y[:, None]) - before).norm()))
    assert changes[0] / changes[1] == pytest.approx(2**order, rel=0.05)


def test_memory_counts_the_stored_examples() -> None:
    (plain, _), (plus, _) = after_two(OGD(directions_per_task=8)), after_two(OGDPlus(directions_per_task=8))
    assert isinstance(plus.method, OGDPlus)
    assert len(plus.method.stored) == 2
    of_labels = sum(8 + 8 * len(set(y.tolist())) for _, y in plus.method.stored)  # a byte each, and the classes
    assert plus.method.memory_bytes - plain.method.memory_bytes == 2 * 8 * 8 * 6 + of_labels
    assert plus.method.statistics()["examples"] == 16
