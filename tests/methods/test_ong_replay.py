"""Stored outputs and the metric of the past: what a step is, what is kept, and what both promise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from methods.matrices import EXACT, Learner, cosine, fisher_matrix, identity, saved, task, tasks, vectors
from nets import flat, mlp, unflat
from torch import Tensor, nn

from ong.curvature import EKFAC
from ong.errors import UserError
from ong.methods import ONGReplay
from ong.methods.store import ExampleStore
from ong.streams import build_stream, load_dataset

DAMPING = 0.02


def second_task(batch: int = 8, **options: Any) -> Learner:
    """A learner in its second task, after one epoch."""
    first, second = tasks(2)
    learner = Learner(ONGReplay(**{"examples": 12, "replay_batch": 5, "damping": DAMPING} | options), batch=batch)
    learner.learn(first).method.begin_task(second)
    learner.steps = []
    learner.train(second)
    return learner


def stored(method: ONGReplay) -> tuple[Tensor, Tensor, Tensor]:
    """All inputs, labels and outputs."""
    ((batch, logits),) = method.store.take(torch.arange(len(method.store)))
    return batch[0], batch[1], logits


def stored_gradient(learner: Learner, index: Tensor, alpha: float, beta: float) -> Tensor:
    """The gradient of the stored loss on some stored examples, by autograd on the model itself."""
    x, y, z = (column[index] for column in stored(learner.method))  # type: ignore[arg-type]
    learner.model.zero_grad()
    h = learner.model(x)
    (alpha * (h - z).square().sum(1).mean() + beta * F.cross_entropy(h, y)).backward()
    return flat({name: block.gradient() for name, block in learner.blocks.items()}, learner.blocks)


@pytest.mark.parametrize("rank", [None, 2])
@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.0), (0.0, 0.7), (0.3, 0.7), (0.0, 0.0)])
def test_the_update_is_the_formula_in_matrices(alpha: float, beta: float, rank: int | None) -> None:
    """With one finished task the metric's λ is the method's."""
    learner = second_task(alpha=alpha, beta=beta, rank=rank)
    learner.nudge()
    learner.method.before_step()
    f = fisher_matrix(learner.method._ekfac, learner.blocks)
    assert float(f.trace()) > 1e-3
    more = torch.zeros_like(learner.weights)
    if alpha or beta:
        more = stored_gradient(learner, learner.method._drawn, alpha, beta)
        assert more.norm() > 1e-2
    for vector in vectors(learner.blocks):
        expected = torch.linalg.solve(identity(f) + f / DAMPING, vector + more)
        torch.testing.assert_close(learner.update(vector), expected, **EXACT)


def test_the_stored_fisher_is_that_of_the_store_at_the_weights_the_task_begins_with() -> None:
    """Each finished task counts with the mean over its examples."""
    first, second, third = tasks(3)
    learner = Learner(ONGReplay(examples=12, fisher="exact", rank=None)).learn(first, second)
    x, y, _ = stored(learner.method)
    learner.method.begin_task(third)
    expected = EKFAC()
    expected.add(learner.model, [[x, y]], fisher="exact", blocks=learner.blocks)
    m = identity(learner.weights[:, None]) + 2 * fisher_matrix(expected, learner.blocks) / 0.3
    v = vectors(learner.blocks, 1)[0]
    torch.testing.assert_close(learner.method.metric.precondition(unflat(v, learner.blocks)),
                               unflat(torch.linalg.solve(m, v), learner.blocks), **EXACT)  # fmt: skip


def test_without_a_metric_it_is_dark_experience_replay() -> None:
    """The same weights as a loop of one's own that adds the loss of stored outputs and labels before backward."""
    first, second = tasks(2)
    method = ONGReplay(examples=12, replay_batch=5, alpha=0.1, beta=0.5, damping=1e15)
    learner = Learner(method).learn(first)
    model = mlp(6, 8, 3)
    model.load_state_dict(learner.model.state_dict())
    x, y, z = stored(method)
    method.begin_task(second)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05)
    for start in range(0, 24, 8):
        learner.step([part[start : start + 8] for part in second])
        index = method._drawn
        h = model(x[index])
        loss = F.cross_entropy(model(second[0][start : start + 8]), second[1][start : start + 8])
        loss = loss + 0.1 * (h - z[index]).square().sum(1).mean() + 0.5 * F.cross_entropy(h, y[index])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
    for one, other in zip(model.parameters(), learner.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_what_is_stored_are_examples_of_every_task_with_the_outputs_its_end_gave_them() -> None:
    stream = tasks(3)
    learner = Learner(ONGReplay(examples=9))
    ends = []
    for data in stream:
        learner.learn(data)
        ends.append([p.detach().clone() for p in learner.model.parameters()])
    x, y, z = stored(learner.method)
    found = [int((data[0] == row).all(1).nonzero()) + 100 * t for row in x for t, data in enumerate(stream)
             if (data[0] == row).all(1).any()]  # fmt: skip
    assert len(set(found)) == 9
    assert [sum(place // 100 == t for place in found) for t in range(3)] == [3, 3, 3]
    for place, label, logits in zip(found, y, z, strict=True):
        t, row = divmod(place, 100)
        assert label == stream[t][1][row]
        with torch.no_grad():
            for parameter, value in zip(learner.model.parameters(), ends[t], strict=True):
                parameter.copy_(value)
            torch.testing.assert_close(learner.model(stream[t][0][row : row + 1])[0], logits, rtol=1e-3, atol=1e-3)


def test_a_stored_digit_costs_its_pixels_and_its_outputs() -> None:
    """784 + 20 + 1 bytes an example, and tables of 256 levels."""
    experience = build_stream("permuted", load_dataset("mnist-10k"), 0, tasks=1).train_stream[0]
    rows = [experience.dataset[i] for i in range(300)]
    x, y = torch.stack([row[0] for row in rows]), torch.tensor([row[1] for row in rows])
    store = ExampleStore(300)
    store.add([([x, y], torch.randn(300, 10))], 0)
    assert 300 * 805 < store.bytes < 300 * 806 + 2048


def test_the_metric_costs_nothing_between_tasks() -> None:
    method = Learner(ONGReplay(examples=12)).learn(*tasks(2)).method
    assert method.memory_bytes == method.store.bytes > 0
    assert not method._ekfac.blocks


def test_every_step_descends_the_joint_objective() -> None:
    """vᵀ∇J = ‖v‖²_M, where the step's own examples estimate J."""
    learner = second_task()
    for _ in range(5):
        learner.nudge(0.05)
        learner.method.before_step()
        g = vectors(learner.blocks, 1)[0]
        whole = g + stored_gradient(learner, learner.method._drawn, 0.005, 1.0)
        assert cosine(whole, learner.update(g)) > 0


def test_stored_outputs_stay_closer_than_without_their_loss() -> None:
    """Five epochs of another task at one rate: the mean squared change of stored outputs."""
    changes = []
    for alpha in (0.0, 1.0):
        learner = Learner(ONGReplay(examples=24, replay_batch=24, alpha=alpha, beta=0.0, damping=1e15))
        learner.learn(task(), epochs=5)
        x, _, z = stored(learner.method)
        learner.learn(task(seed=1), epochs=5)
        with torch.no_grad():
            changes.append(float((learner.model(x) - z).square().sum(1).mean()))
    assert changes[1] < 0.3 * changes[0]


def test_the_examples_of_a_step_are_drawn_once_also_where_a_closure_runs_often() -> None:
    first, second = tasks(2)
    learner = Learner(ONGReplay(examples=12, replay_batch=5)).learn(first)
    learner.method.begin_task(second)
    learner.method.before_step()
    g = vectors(learner.blocks, 1)[0]
    assert torch.equal(learner.update(g), learner.update(g))
    one = learner.update(g)
    learner.method.before_step()
    assert not torch.equal(one, learner.update(g))


def test_a_head_that_grows_keeps_the_outputs_it_had() -> None:
    """Stored outputs of two classes count on these two, and lie beside those of three."""
    first, second = task(classes=2), task(classes=3, seed=1)
    model = mlp(6, 8, 2)
    method = ONGReplay(examples=12, replay_batch=8)
    learner = Learner(method, model).learn(first)
    old, new = model[2], nn.Linear(8, 3, dtype=torch.float64)
    with torch.no_grad():
        new.weight[:2], new.bias[:2] = old.weight, old.bias
    model[2] = new
    learner.optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    method.attach(model, learner.optimizer)
    learner.learn(second)
    method.begin_task(second)
    assert sorted(logits.shape[1] for _, logits in method.store.take(torch.arange(12))) == [2, 3]
    learner.step(second)


def test_texts_of_several_lengths_lie_beside_each_other() -> None:
    store = ExampleStore(10)
    for length in (3, 5):
        batch = {"input_ids": torch.randint(0, 900, (4, length)), "labels": torch.arange(4)}
        store.add([(batch, torch.randn(4, 2))], 0 if length == 3 else 1)
    found = store.take(torch.tensor([7, 0, 1, 6]))
    assert [batch["input_ids"].shape for batch, _ in found] == [(2, 3), (2, 5)]
    again = ExampleStore(10)
    again.load_state_dict(saved(store.state_dict()))
    assert torch.equal(again.take(torch.tensor([5]))[0][1], store.take(torch.tensor([5]))[0][1])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"examples": 0}, "examples must be at least 1"),
        ({"alpha": -1.0}, "alpha and beta"),
        ({"damping": 0.0}, "damping must be positive"),
    ],
)
def test_wrong_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        ONGReplay(**options)


def test_a_store_too_small_for_its_tasks_is_an_error() -> None:
    with pytest.raises(UserError, match="leaves not one for each of 3 tasks"):
        Learner(ONGReplay(examples=2)).learn(*tasks(3))


def test_labels_that_are_missing_are_an_error_before_training() -> None:
    method = ONGReplay(examples=6)
    model = mlp(6, 8, 3)
    method.attach(model, torch.optim.SGD(model.parameters(), lr=0.1), criterion=nn.CrossEntropyLoss())
    with pytest.raises(UserError, match="the batches have none; use beta=0"):
        method.begin_task([{"input": task()[0]}])
