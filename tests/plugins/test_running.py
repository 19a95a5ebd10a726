"""ONG with a running EKFAC: the step it takes, and where it cannot be had."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from harness import learner, tasks
from nets import mlp
from torch import Tensor, nn

from ong.curvature import Factors, RunningEKFAC, UnsupportedLayerError, Vector, cotangents, find_blocks, record
from ong.plugins import ONG

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

OPTIONS: dict[str, Any] = {"metric": "current", "projection": "none", "fisher": "empirical", "damping": 0.05}


class Around(SupervisedPlugin):
    """Notes gradients and batches before the plugin that follows it, and whether a pass of its own disturbs that."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[Vector] = []
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.models: list[nn.Module] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.batches.append((strategy.mb_x, strategy.mb_y))
        self.models.append(copy.deepcopy(strategy.model))
        with torch.enable_grad():
            torch.autograd.grad(strategy.model(strategy.mb_x + 1).sum(), list(strategy.model.parameters()))
        self.gradients.append({n: block.gradient() for n, block in find_blocks(strategy.model).items()})


class After(SupervisedPlugin):
    def __init__(self) -> None:
        super().__init__()
        self.updates: list[Vector] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.updates.append({n: block.gradient() for n, block in find_blocks(strategy.model).items()})


def factors_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Factors]:
    with record(find_blocks(model)) as tape:
        logits = model(batch[0])
    (u,) = cotangents(logits, "empirical", targets=batch[1])
    return tape.factors(logits, u)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Notes of each step whether it was taken by the batch's factors."""
    steps: list[bool] = []
    take = RunningEKFAC.precondition_in_place
    monkeypatch.setattr(
        RunningEKFAC, "precondition_in_place", lambda self, share: (steps.append(share is not None), take(self, share))
    )
    return steps


@pytest.mark.parametrize("alone", [True, False], ids=["by the batch's factors", "by the gradient"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_steps_are_those_of_a_running_ekfac_that_is_fed_by_hand(reduction: str, alone: bool, seen: list[bool]) -> None:
    before, after = Around(), After()
    before.coordinate_free = after.coordinate_free = alone
    plugin = ONG(**OPTIONS, running=True, fisher_examples=16, refresh_every=3)
    strategy = learner(mlp(6, 12, 3), before, plugin, after, lr=0.01, batch=8, epochs=2)
    strategy._criterion = nn.CrossEntropyLoss(reduction=reduction)
    first = copy.deepcopy(strategy.model)
    experience = tasks(1, examples=40).train_stream[0]
    strategy.train(experience, eval_streams=[])
    assert len(after.updates) == 10
    by_hand = RunningEKFAC(find_blocks(first), damping=0.05, window=16)
    chosen = torch.randperm(40, generator=torch.Generator().manual_seed(0))[:16].tolist()
    drawn = [experience.dataset[i] for i in chosen]
    by_hand.observe(factors_of(first, (torch.stack([d[0] for d in drawn]), torch.tensor([d[1] for d in drawn]))))
    for step in range(10):
        if step % 3 == 0:
            by_hand.refresh()
        by_hand.observe(factors_of(before.models[step], before.batches[step]))
        expected = by_hand.precondition(before.gradients[step])
        for name, part in after.updates[step].items():
            torch.testing.assert_close(part, expected[name], rtol=1e-7, atol=1e-10)
    assert seen == [alone] * 10


class Decay(nn.Module):
    """Adds a penalty of its own to the loss."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = [model]

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        penalty = sum(p.square().sum() for p in self.model[0].parameters())
        return nn.functional.cross_entropy(logits, targets) + penalty


class Twice(SupervisedPlugin):
    """Has the loss pulled back once more every third step."""

    coordinate_free = True

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_iterations % 3 == 1:
            strategy.loss.backward(retain_graph=True)


@pytest.mark.parametrize("how", ["penalty", "twice"])
def test_where_the_gradient_is_more_than_the_batchs_it_is_read(how: str, seen: list[bool]) -> None:
    before, after = Around(), After()
    before.coordinate_free = after.coordinate_free = True
    plugin = ONG(**OPTIONS, running=True, fisher_examples=16, refresh_every=3)
    strategy = learner(mlp(6, 12, 3), *([Twice()] if how == "twice" else []), before, plugin, after, batch=8, epochs=2)
    if how == "penalty":
        strategy._criterion = Decay(strategy.model)
    fed: list[Vector] = []

    def noting(self: RunningEKFAC, share: float | None) -> None:
        fed.append(self.precondition({n: b.gradient() for n, b in self.blocks.items()}))
        original(self, share)

    original = RunningEKFAC.precondition_in_place
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunningEKFAC, "precondition_in_place", noting)
        strategy.train(tasks(1, examples=40).train_stream[0], eval_streams=[])
    assert seen.count(True) == (0 if how == "penalty" else 7)
    for expected, update in zip(fed, after.updates, strict=True):
        for name, part in update.items():
            torch.testing.assert_close(part, expected[name], rtol=1e-7, atol=1e-10)


def test_what_it_cannot_be_is_refused() -> None:
    for wrong in ({"metric": "prior"}, {"fisher": "rademacher"}, {"projection": "metric"}):
        with pytest.raises(ValueError, match="running=True is an empirical Fisher of the current task"):
            ONG(**{**OPTIONS, **wrong}, running=True)
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)).double()
    strategy = learner(model, ONG(**OPTIONS, running=True))
    with pytest.raises(UnsupportedLayerError, match="BatchNorm1d mixes the examples of a batch"):
        strategy.train(tasks(1).train_stream[0], eval_streams=[])


def test_no_hook_outlives_training() -> None:
    model = mlp(6, 5, 3)
    learner(model, ONG(**OPTIONS, running=True)).train(tasks(1).train_stream[0], eval_streams=[])
    assert not any(module._forward_hooks for module in model.modules())
