"""OGD in the coefficients of its directions is OGD: same weights, same function, whoever looks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from harness import Products, Skipping, learner, tasks, weights
from nets import mlp
from torch import Tensor, nn

from ong.plugins import OGD, Diagnostics
from ong.plugins.shadow import Shadow
from ong.streams import InMemoryLoader

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

WIDTH = 40


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names the layer of each step that was taken in coefficients."""
    steps: list[str] = []
    move: Callable[[Shadow, Tensor], None] = Shadow.move
    monkeypatch.setattr(Shadow, "move", lambda self, step: (steps.append(self.name), move(self, step))[1])
    return steps


def trained(shadow: bool, dtype: torch.dtype = torch.float64, *plugins: Any, **options: Any) -> tuple[Tensor, Any]:
    loader = options.pop("loader", True)
    model = nn.Sequential(nn.Flatten(), *mlp(WIDTH, 12, 8, 3, dtype=dtype))
    ogd = OGD(directions_per_task=6, **options.pop("ogd", {}))
    before = [InMemoryLoader()] if loader else []
    strategy = learner(model, *before, Diagnostics(every=3), *plugins, ogd, batch=4, epochs=9, **options)
    for experience in tasks(4, width=WIDTH, dtype=dtype).train_stream:
        if not shadow:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Shadow, "of", lambda *_: [])
                strategy.train(experience, eval_streams=[])
        else:
            strategy.train(experience, eval_streams=[])
    return weights(model), strategy


@pytest.mark.parametrize("loader", [True, False], ids=["kernel of the task", "kernel of the batch"])
@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}], ids=str)
def test_162_steps_end_at_the_same_weights(used: list[str], sgd: dict[str, Any], loader: bool) -> None:
    plain, _ = trained(False, loader=loader, **sgd)
    assert not used
    torch.manual_seed(0)
    held, _ = trained(True, loader=loader, **sgd)
    assert used == ["1", "3"] * 162  # of three tasks, nine epochs and six batches; the last layer is too small
    if loader:  # Avalanche's own loader shuffles by the global generator
        torch.testing.assert_close(held, plain, rtol=0, atol=1e-10)
    else:
        torch.manual_seed(0)
        torch.testing.assert_close(held, trained(False, loader=False, **sgd)[0], rtol=0, atol=1e-10)


def test_in_float32_they_agree_to_1e4(used: list[str]) -> None:
    held, _ = trained(True, torch.float32)
    assert used
    torch.testing.assert_close(held, trained(False, torch.float32)[0], rtol=0, atol=1e-4)


def test_ogd_plus_and_bounds_too(used: list[str]) -> None:
    for options in ({"recompute": True}, {"max_directions": 7}):
        used.clear()
        held, _ = trained(True, ogd=options)
        assert used
        torch.testing.assert_close(held, trained(False, ogd=options)[0], rtol=0, atol=1e-10)


def test_diagnostics_are_those_of_plain_training(used: list[str]) -> None:
    measures = []
    for shadow in (False, True):
        _, strategy = trained(shadow)
        (diagnostics,) = (p for p in strategy.plugins if isinstance(p, Diagnostics))
        measures.append(diagnostics.measures)
    assert used
    for name in ("leak_unseen", "descent_cosine"):
        for one, other in zip(measures[0][name], measures[1][name], strict=True):
            assert one is other is None or one == pytest.approx(other, rel=1e-6)


class Looker(SupervisedPlugin):
    """Looks at the model in the middle of an epoch as checkpointing code would, and at a copy later."""

    coordinate_free = True

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x, self.pairs, self.copies = x, [], []

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        inside = strategy.model(self.x).detach()
        self.copies.append((copy.deepcopy(strategy.model), inside))
        fresh = nn.Sequential(nn.Flatten(), *mlp(WIDTH, 12, 8, 3))
        fresh.load_state_dict(strategy.model.state_dict())
        self.pairs.append((inside, fresh(self.x).detach()))


def test_whoever_looks_in_between_sees_the_network_itself(used: list[str]) -> None:
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    looker = Looker(x)
    _, strategy = trained(True, torch.float64, looker)
    assert used
    for inside, loaded in looker.pairs:
        torch.testing.assert_close(inside, loaded)
    for copied, inside in looker.copies:
        torch.testing.assert_close(copied(x).detach(), inside)
    assert all("forward" not in vars(module) for module in strategy.model.modules())
    assert not any(hasattr(module, "_ong_held") for module in strategy.model.modules())


def test_the_projected_gradient_is_read_as_such(used: list[str]) -> None:
    reader = Products()
    trained(True, torch.float64, reader)
    assert used
    assert len(reader.products) == 162
    assert max(reader.products) < 1e-10


def test_an_online_stream_keeps_it_from_piece_to_piece(used: list[str]) -> None:
    ends = []
    for shadow in (True, False):
        model = nn.Sequential(nn.Flatten(), *mlp(WIDTH, 12, 8, 3))
        strategy = learner(model, InMemoryLoader(), OGD(directions_per_task=6), batch=4)
        with pytest.MonkeyPatch.context() as patch:
            if not shadow:
                patch.setattr(Shadow, "of", lambda *_: [])
            online = split_online_stream(tasks(3, width=WIDTH).train_stream, 8, access_task_boundaries=True, seed=0)
            for piece in online:
                strategy.train(piece, eval_streams=[])
        ends.append(weights(model))
    assert used
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


class Reading(nn.Module):
    """Reads its first layer's weight itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Linear(WIDTH, 12).double(), mlp(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.first(x)) * self.first.weight.mean()


class Penalty(SupervisedPlugin):
    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss += sum(p.square().sum() for p in strategy.model.parameters())


@pytest.mark.parametrize(
    ("model", "plugins", "sgd", "batch"),
    [
        (Reading, [], {}, 4),
        (lambda: mlp(WIDTH, 12, 3), [Penalty], {}, 4),
        (lambda: mlp(WIDTH, 12, 3), [], {"momentum": 0.5, "dampening": 0.5}, 4),
        (lambda: mlp(WIDTH, 12, 3), [], {}, 24),
    ],
    ids=["reads weights", "penalty", "dampening", "large batch"],
)
def test_where_it_is_not_exact_or_does_not_pay_ogd_projects_vectors(
    used: list[str], model: Callable[[], nn.Module], plugins: list[Any], sgd: dict[str, Any], batch: int
) -> None:
    strategy = learner(model(), *(p() for p in plugins), OGD(directions_per_task=6), batch=batch, **sgd)
    for experience in tasks(2, width=WIDTH).train_stream:
        strategy.train(experience, eval_streams=[])
    assert not used


def test_a_step_that_moves_fewer_layers_is_taken_in_vectors(used: list[str]) -> None:
    """G is restricted to what moves."""
    held, _ = trained(True, torch.float64, Skipping())
    assert 0 < used.count("1") == used.count("3") < 162
    torch.testing.assert_close(held, trained(False, torch.float64, Skipping())[0], rtol=0, atol=1e-10)
