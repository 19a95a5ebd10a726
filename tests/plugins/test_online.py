"""Online streams: a task's pieces are one task, which is kept at its end and as a whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from harness import EXACT, EXAMPLES, PLUGINS, STAY, Steps, leak, learner, stored, stream, train
from nets import mlp

from ong.errors import UserError
from ong.methods import NGD
from ong.plugins import EWC, OGD, MethodPlugin
from ong.streams import InMemoryLoader

pytestmark = pytest.mark.filterwarnings(
    "ignore:No loggers", "ignore:GPM. past inputs span", "ignore:.*of the space is left"
)


def online(experiences: Any, size: int, **options: Any) -> Any:
    return split_online_stream(experiences, experience_size=size, seed=0, **{"access_task_boundaries": True} | options)


@pytest.mark.parametrize("size", [4, 5])  # 5 leaves a shorter last piece; with 4 Avalanche marks none as the last
@pytest.mark.parametrize("name", STAY)
def test_a_task_is_kept_at_its_end_and_as_a_whole(name: str, size: int) -> None:
    model, steps, plugin = mlp(6, 12, 3), Steps(), PLUGINS[name]()
    strategy = learner(model, InMemoryLoader(), steps, plugin, batch=2)
    experiences = stream()
    pieces, gradients, counts = -(-EXAMPLES // size), [], []
    for place, piece in enumerate(online(experiences, size)):
        steps.taken.clear()
        strategy.train(piece, eval_streams=[])
        counts.append(len(plugin.method.memory))
        assert all(leak(gradients, step) < EXACT for step in steps.taken if gradients)
        if (place + 1) % pieces == 0:
            gradients += stored(model, experiences[place // pieces])
    assert counts == [EXAMPLES * ((place + 1) // pieces) for place in range(3 * pieces)]
    assert plugin.method.tasks == 3


@pytest.mark.parametrize("name", PLUGINS)
def test_pieces_that_were_trained_in_order_leave_what_the_whole_task_does(name: str) -> None:
    """An unshuffled stream of pieces is the task's batches in order, whatever the method refreshes or follows."""
    found = []
    for pieces in (False, True):
        model, plugin = mlp(6, 12, 3), PLUGINS[name]()
        strategy = learner(model, plugin, batch=4)
        experiences: Any = stream(2)
        if pieces:
            experiences = online(experiences, 4, shuffle=False)
        for experience in experiences:
            strategy.train(experience, eval_streams=[], shuffle=False)
        assert plugin.method.tasks == 2
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*found)


def test_refreshes_are_counted_over_the_task_and_taken_from_the_whole_of_it() -> None:
    seen = []

    class Watched(NGD):
        def _before_step(self) -> None:
            before = self.current.metric
            super()._before_step()
            if self.current.metric is not before:
                assert self._examples is not None
                seen.append((self.step, self._examples.count))

    strategy = learner(mlp(6, 8, 3), MethodPlugin(Watched(refresh_every=4)), batch=2)
    train(strategy, online(stream(2), 4))  # two steps a piece
    assert seen == [(0, EXAMPLES), (4, EXAMPLES)] * 2


@pytest.mark.parametrize("plugin", [OGD, EWC])
def test_streams_that_hide_their_boundaries_are_refused_with_the_remedy(plugin: Any) -> None:
    strategy = learner(mlp(6, 8, 3), plugin())
    piece = next(iter(online(stream(1), 4, access_task_boundaries=False)))
    message = f"{plugin.__name__} keeps .* pass access_task_boundaries=True to split_online_stream"
    with pytest.raises(UserError, match=message):
        strategy.train(piece, eval_streams=[])


@pytest.mark.parametrize("name", STAY)
def test_training_again_on_a_kept_tasks_pieces_is_projected_off_it(name: str) -> None:
    model, steps, plugin = mlp(6, 12, 3), Steps(), PLUGINS[name]()
    strategy = learner(model, steps, plugin)
    (experience,) = stream(1)
    parts = list(online([experience], 6))
    train(strategy, parts)
    gradients = stored(model, experience)
    for again in (parts, parts[-1:]):
        steps.taken.clear()
        train(strategy, again)
        assert steps.taken
        assert all(leak(gradients, step) < EXACT for step in steps.taken)
    assert plugin.method.tasks == 1


def test_a_piece_that_failed_leaves_the_next_one_to_prepare_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = MethodPlugin(NGD(refresh_every=4))
    strategy = learner(mlp(6, 5, 3), plugin)
    first, second, *_ = online(stream(1), 4)
    with monkeypatch.context() as patch:
        patch.setattr(NGD, "_begin", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            strategy.train(first, eval_streams=[])
    strategy.train(second, eval_streams=[])
    assert plugin.method.current.ekfac.blocks.keys() == {"0", "2"}
