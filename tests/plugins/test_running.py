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


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_steps_are_those_of_a_running_ekfac_that_is_fed_by_hand(reduction: str) -> None:
    before, after = Around(), After()
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
