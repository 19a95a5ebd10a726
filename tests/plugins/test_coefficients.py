"""ong-prior with the first layer's projections in coefficients is ong-prior: same weights, same function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from harness import Products, Skipping, learner, tasks, weights
from nets import mlp
from torch import Tensor, nn

from ong.plugins import ONG, Diagnostics
from ong.plugins.eigenbasis import Eigenbasis
from ong.streams import InMemoryLoader

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

WIDTH, HIDDEN = 60, 24  # room for two terms: 24 · 61 numbers against 2 · 85


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Notes the number of terms of each step that was taken in coefficients."""
    steps: list[int] = []
    move: Callable[[Eigenbasis, Tensor], None] = Eigenbasis.move

    def noting(self: Any, step: Tensor) -> None:
        steps.append(len(self._coefficients.layout) // len(step))
        move(self, step)

    monkeypatch.setattr(Eigenbasis, "move", noting)
    return steps


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), *mlp(WIDTH, HIDDEN, 8, 3, dtype=dtype))


def prior(**options: Any) -> ONG:
    return ONG(**{"damping": 0.05, "directions_per_task": 6, "scale_tolerance": 0.25} | options)


def trained(held: bool, dtype: torch.dtype = torch.float64, *plugins: Any, **options: Any) -> tuple[Tensor, Any]:
    loader = [InMemoryLoader()] if options.pop("loader", True) else []
    model, plugin = net(dtype), prior(eigenbasis=held, **options.pop("ong", {}))
    strategy = learner(model, *loader, Diagnostics(every=3), *plugins, plugin, batch=4, epochs=9, **options)
    for experience in tasks(4, width=WIDTH, dtype=dtype).train_stream:
        strategy.train(experience, eval_streams=[])
    return weights(model), strategy


@pytest.mark.parametrize("loader", [True, False], ids=["kernel of the task", "kernel of the batch"])
@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}], ids=str)
def test_162_steps_end_at_the_same_weights(used: list[int], sgd: dict[str, Any], loader: bool) -> None:
    torch.manual_seed(0)  # Avalanche's own loader shuffles by the global generator
    plain, _ = trained(False, loader=loader, **sgd)
    assert not used
    torch.manual_seed(0)
    held, _ = trained(True, loader=loader, **sgd)
    assert len(used) == 162  # of three tasks, nine epochs and six batches
    assert 2 in used  # more than one term
    torch.testing.assert_close(held, plain, rtol=0, atol=1e-9 if sgd else 1e-10)


def test_in_float32_they_agree_to_1e4(used: list[int]) -> None:
    held, _ = trained(True, torch.float32)
    assert used
    torch.testing.assert_close(held, trained(False, torch.float32)[0], rtol=0, atol=1e-4)


def test_with_a_scale_as_it_is_or_a_pull_steps_are_taken_in_vectors(used: list[int]) -> None:
    for options in ({"scale_tolerance": 0.0}, {"pull": 0.3}):
        held, _ = trained(True, ong=options)
        torch.testing.assert_close(held, trained(False, ong=options)[0], rtol=0, atol=1e-10)
    assert not used


def test_the_tolerance_is_what_the_metric_is_off(used: list[int]) -> None:
    exact, _ = trained(True, ong={"scale_tolerance": 0.0})
    gaps = []
    for tolerance in (1.0, 0.25):
        near, _ = trained(True, ong={"scale_tolerance": tolerance})
        gaps.append(float((near - exact).norm() / exact.norm()))
    assert 0 < gaps[1] < gaps[0] < 0.5


def test_diagnostics_are_those_of_plain_training(used: list[int]) -> None:
    measures = []
    for held in (False, True):
        _, strategy = trained(held)
        (diagnostics,) = (p for p in strategy.plugins if isinstance(p, Diagnostics))
        measures.append(diagnostics.measures)
    assert used
    for name in ("leak_unseen", "descent_cosine"):
        for one, other in zip(measures[0][name], measures[1][name], strict=True):
            assert one is other is None or one == pytest.approx(other, rel=1e-6)


def test_the_update_is_read_as_such_and_is_off_the_directions(used: list[int]) -> None:
    reader = Products()
    trained(True, torch.float64, reader)
    assert len(used) == len(reader.products) == 162
    assert max(reader.products) < 1e-10


def test_an_online_stream_keeps_it_from_piece_to_piece(used: list[int]) -> None:
    ends = []
    for held in (True, False):
        model = net()
        strategy = learner(model, InMemoryLoader(), prior(eigenbasis=held), batch=4)
        stream = tasks(3, width=WIDTH).train_stream
        for piece in split_online_stream(stream, 8, access_task_boundaries=True, seed=0):
            strategy.train(piece, eval_streams=[])
        ends.append(weights(model))
    assert used
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-10)


def test_gradients_by_the_inputs_know_of_the_coefficients(used: list[int]) -> None:
    """As an attack on the network in the middle of a task would take them."""

    class Attack(SupervisedPlugin):
        coordinate_free = True

        def __init__(self) -> None:
            super().__init__()
            self.slopes: list[Tensor] = []

        def after_update(self, strategy: Any, **kwargs: Any) -> None:
            x = strategy.mb_x.clone().requires_grad_()
            (slope,) = torch.autograd.grad(strategy.model(x).square().sum(), x)
            self.slopes.append(slope)

    found = []
    for held in (True, False):
        attack = Attack()
        trained(held, torch.float64, attack)
        found.append(torch.cat(attack.slopes))
    assert len(used) == 162
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)


def test_where_it_does_not_pay_or_is_not_exact_steps_are_taken_in_vectors(used: list[int]) -> None:
    for batch, sgd in ((24, {}), (4, {"momentum": 0.5, "dampening": 0.5})):
        strategy = learner(net(), prior(), batch=batch, **sgd)
        for experience in tasks(2, width=WIDTH).train_stream:
            strategy.train(experience, eval_streams=[])
    assert not used


def test_a_step_that_moves_fewer_layers_is_taken_in_vectors(used: list[int]) -> None:
    """G is restricted to what moves."""
    held, _ = trained(True, torch.float64, Skipping())
    assert 0 < len(used) < 162
    torch.testing.assert_close(held, trained(False, torch.float64, Skipping())[0], rtol=0, atol=1e-10)
