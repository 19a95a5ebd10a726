"""OGD, and what of a task's many gradients it keeps, against singular vectors of gradients taken one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, Task, columns, leak, off, places, saved, task, tasks, vectors
from nets import flat, jacobian, mlp
from torch import Tensor, nn

from ong.errors import UserError
from ong.methods import OGD
from ong.projection.derived import StackedRows


def learned(method: OGD, *stream: Task, **options: Any) -> tuple[Learner, list[Tensor]]:
    """A learner after some tasks, and all gradients of each task at the weights it ended with, in columns."""
    learner = Learner(method, **options)
    found = []
    for data in stream:
        learner.learn(data)
        found.append(learner.gradients(data))
    return learner, found


def test_the_update_is_the_orthogonal_projection_off_the_stored_gradients() -> None:
    first, second, third = tasks(3)
    learner, _ = learned(OGD(directions_per_task=5), first, second)
    learner.begin(third)
    g = columns(learner.method.memory, learner.blocks)
    assert g.shape[1] == 10
    for vector in vectors(learner.blocks):
        torch.testing.assert_close(learner.update(vector), off(g) @ vector, **EXACT)


def test_what_is_stored_are_gradients_of_true_logits_of_different_examples() -> None:
    stream = tasks(2)
    learner, gradients = learned(OGD(directions_per_task=5), *stream)
    learner.begin(stream[0])
    g = columns(learner.method.memory, learner.blocks)
    for drawn, among in ((g[:, :5], gradients[0]), (g[:, 5:], gradients[1])):
        assert len(set(places(drawn, among))) == 5


@pytest.mark.parametrize("kind", ["ave", "all", "loss"])
def test_the_other_kinds_of_direction_are_what_they_are_called(kind: Any) -> None:
    data = task(examples=7)
    learner, _ = learned(OGD(directions=kind, directions_per_task=7), data)
    jac = jacobian(learner.model, data[0])
    if kind == "all":
        expected = jac.flatten(0, 1).T
    elif kind == "ave":
        expected = jac.mean(1).T
    else:
        residual = torch.softmax(learner.model(data[0]).detach(), 1) - nn.functional.one_hot(data[1], 3)
        expected = torch.einsum("nc,ncp->pn", residual, jac)
    learner.begin(data)
    g = columns(learner.method.memory, learner.blocks)
    assert sorted(places(g, expected)) == list(range(expected.shape[1]))


@pytest.mark.parametrize("keep", ["leading", "pivoted"])
def test_where_as_many_examples_are_taken_as_are_kept_all_gradients_are(keep: Any) -> None:
    data = task(examples=6)
    learner, (gradients,) = learned(OGD(directions_per_task=6, examples_per_task=6, keep=keep), data)
    learner.begin(data)
    assert sorted(places(columns(learner.method.memory, learner.blocks), gradients)) == list(range(6))


def test_leading_directions_are_the_leading_eigenvectors_of_the_gradients_second_moment() -> None:
    """The left singular vectors of R = [r_1 … r_m] by torch.linalg.svd, times their singular values."""
    data = task()
    learner, (gradients,) = learned(OGD(directions_per_task=5, examples_per_task=24, keep="leading"), data)
    learner.begin(data)
    kept = columns(learner.method.memory, learner.blocks)
    u, s, _ = torch.linalg.svd(gradients, full_matrices=False)
    torch.testing.assert_close(kept.norm(dim=0), s[:5], **EXACT)
    cosines = (kept / kept.norm(dim=0)).T @ u[:, :5]
    torch.testing.assert_close(cosines.abs(), torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_leading_directions_hold_more_of_the_gradients_than_any_as_many_of_them() -> None:
    data = task()
    learner, (gradients,) = learned(OGD(directions_per_task=5, examples_per_task=24, keep="leading"), data)
    other, (same_gradients,) = learned(OGD(directions_per_task=5, examples_per_task=24, keep="pivoted"), data)
    torch.testing.assert_close(gradients, same_gradients, **EXACT)
    left = []
    for one in (learner, other):
        one.begin(data)
        left.append(float((off(columns(one.method.memory, one.blocks)) @ gradients).square().sum()))
    s = torch.linalg.svdvals(gradients)
    assert left[0] == pytest.approx(float(s[5:].square().sum()), rel=1e-9)  # Eckart and Young
    assert left[0] < left[1]


def farthest(unit: Tensor, start: int, count: int) -> list[int]:
    """Unit columns, each the farthest from the span of those before, by explicit projections."""
    found = [start]
    while len(found) < count:
        found.append(int((off(unit[:, found]) @ unit).norm(dim=0).argmax()))
    return sorted(found)


def test_pivoted_directions_are_each_the_farthest_from_the_span_of_those_before() -> None:
    """But for the first: all unit gradients are as far from nothing."""
    data = task()
    learner, (gradients,) = learned(OGD(directions_per_task=5, examples_per_task=24, keep="pivoted"), data)
    learner.begin(data)
    chosen = sorted(places(columns(learner.method.memory, learner.blocks), gradients))
    unit = gradients / gradients.norm(dim=0)
    assert chosen in [farthest(unit, start, 5) for start in chosen]


@pytest.mark.parametrize("keep", ["leading", "pivoted"])
def test_steps_of_later_tasks_are_off_all_that_was_kept(keep: Any) -> None:
    first, second, third = tasks(3)
    learner, _ = learned(OGD(directions_per_task=4, examples_per_task=24, keep=keep), first, second)
    learner.method.begin_task(third)
    g = columns(learner.method.memory, learner.blocks)
    assert g.shape[1] == 8
    learner.steps = []
    learner.train(third, epochs=2)
    assert all(leak(g, step.update) < 1e-6 for step in learner.steps)
    for step in learner.steps:
        torch.testing.assert_close(step.gradient @ step.update, step.update @ step.update, rtol=1e-9, atol=1e-12)


def growing(model: nn.Sequential) -> None:
    """Give the last layer two more outputs."""
    new, old = nn.Linear(8, 5).double(), model[2]
    with torch.no_grad():
        new.weight[:3], new.bias[:3] = old.weight, old.bias
    model[2] = new


@pytest.mark.parametrize("keep", ["leading", "pivoted"])
def test_a_head_that_grows_leaves_what_was_kept_as_it_was_with_zeros_on_the_new_rows(keep: Any) -> None:
    first, second = tasks(2)
    learner, _ = learned(OGD(directions_per_task=4, examples_per_task=24, keep=keep), first)
    learner.begin(second)
    before = columns(learner.method.memory, learner.blocks)
    learner.method.leave_task()
    growing(learner.model)
    learner.optimizer = torch.optim.SGD(learner.model.parameters(), lr=0.05)
    learner.method.attach(learner.model, learner.optimizer)
    learner.begin(second)
    blocks = learner.blocks
    grown = torch.stack(
        [flat(learner.method.memory.combine(unit), blocks) for unit in torch.eye(4, dtype=torch.float64)], 1
    )
    hidden, head = grown[:56].T, grown[56:].T.reshape(4, 5, 9)
    torch.testing.assert_close(hidden, before[:56].T, rtol=0, atol=0)
    torch.testing.assert_close(head[:, :3], before[56:].T.reshape(4, 3, 9), rtol=0, atol=0)
    assert not head[:, 3:].any()
    vector = vectors(blocks, 1)[0]
    torch.testing.assert_close(learner.update(vector), off(grown) @ vector, **EXACT)


def test_leading_directions_come_back_from_a_file_and_the_next_task_adds_to_them() -> None:
    first, second, third = tasks(3)
    options: Any = {"directions_per_task": 4, "examples_per_task": 24, "keep": "leading"}
    learner, _ = learned(OGD(**options), first)
    state = saved(learner.method.state_dict())
    other = Learner(OGD(**options), mlp(6, 8, 3))
    other.model.load_state_dict(learner.model.state_dict())
    other.method.load_state_dict(state)
    for one in (learner, other):
        one.learn(second).begin(third)
    assert torch.equal(columns(learner.method.memory, learner.blocks), columns(other.method.memory, other.blocks))
    assert torch.equal(learner.weights, other.weights)


def test_principal_directions_cost_the_factors_they_come_from_and_their_weights() -> None:
    learner, _ = learned(OGD(directions_per_task=4, examples_per_task=24, keep="leading"), task())
    factors, weights = 24 * 8 * (7 + 8 + 9 + 3), 2 * 24 * 4 * 8
    assert learner.method.memory.bytes == factors + weights


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "leaping"}, "did you mean 'leading'"),
        ({"directions": "gt"}, "did you mean 'gtl'"),
        ({"examples_per_task": 9, "directions_per_task": 10}, "must be at least directions_per_task, got 9 and 10"),
        ({"directions_per_task": 0}, "directions_per_task must be at least 1"),
        ({"max_directions": 0}, "max_directions must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OGD(**options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([torch.zeros(4, 6).double(), torch.zeros(4, 3).double()], {}, "directions='gtl' takes the logit of each"),
        ([torch.zeros(4, 6).double(), torch.full((4,), 3)], {}, "a label is 3, and the model has 3 outputs"),
        ([torch.zeros(4, 6).double()], {"directions": "loss"}, "needs targets, and the batches have none"),
    ],
)
def test_targets_that_a_kind_of_direction_lacks_show_before_training(
    data: Any, options: dict[str, Any], message: str
) -> None:
    learner = Learner(OGD(**options))
    learner.method.attach(learner.model, learner.optimizer, likelihood="categorical")
    with pytest.raises(UserError, match=message):
        learner.method.begin_task(data)


def test_directions_in_half_storage_take_half_the_bytes_and_stored_outputs_stay_to_eleven_bits() -> None:
    """Off the rounded gradients exactly; off the true ones to 2⁻¹¹ of both factors."""
    first, second = tasks(2, examples=8)
    bytes_kept = {}
    for storage in ("full", "half"):
        learner, (gradients, *_) = learned(OGD(directions_per_task=8, storage=storage), first)  # type: ignore[arg-type]
        bytes_kept[storage] = learner.method.memory_bytes
        learner.begin(second)
        g = columns(learner.method.memory, learner.blocks)
        for vector in vectors(learner.blocks):
            update = learner.update(vector)
            torch.testing.assert_close(update, off(g) @ vector, **EXACT)
            moved = (gradients.T @ update).abs() / (gradients.norm(dim=0) * update.norm())
            assert float(moved.max()) < (2.1 * 2**-11 if storage == "half" else 1e-9)
        if storage == "half":
            assert float(moved.max()) > 1e-8
    assert bytes_kept["half"] < 0.35 * bytes_kept["full"]  # two bytes a number in place of float64's eight
    with pytest.raises(UserError, match="storage"):
        OGD(storage="quarter")  # type: ignore[arg-type]


class Words(nn.Module):
    """The mean over words of a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = nn.Embedding(30, 8), nn.Linear(8, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.hidden(self.words(x))).mean(1))
        return logits


def test_half_storage_holds_where_tasks_leave_gradients_of_other_numbers_of_positions() -> None:
    """Texts of 1, 9 and 2 words: of 9 the hidden layer's gradient is kept as a matrix, of 1 and 2 as factors."""
    generator, model = torch.Generator().manual_seed(0), Words().double()
    method, sgd = OGD(directions_per_task=24, storage="half"), torch.optim.SGD(model.parameters(), lr=0.1)
    with method.attach(model, sgd):
        for words in (1, 9, 2):
            data = [torch.randint(0, 30, (24, words), generator=generator), torch.arange(24) % 3]
            method.begin_task(data)
            sgd.zero_grad()
            nn.functional.cross_entropy(model(data[0]), data[1]).backward()
            sgd.step()
            method.end_task()
    assert isinstance(method.memory.rows["hidden"], StackedRows)
    assert method.memory_bytes < 0.3 * method.memory.bytes  # two bytes a number in place of float64's eight
