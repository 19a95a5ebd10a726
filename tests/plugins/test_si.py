"""Synaptic intelligence against the paper's equations, worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import SynapticIntelligencePlugin
from harness import learner, tasks, weights
from nets import mlp
from torch import Tensor

from ong.plugins.si import SI

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")
STRENGTH, XI, CUT = 2000.0, 1e-7, 1e-3


class ByHand(SupervisedPlugin):
    """λ/2 Σ Ω(θ − θ̃)² with Ω summed over tasks and cut at 1e-3."""

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor | float = 0.0
        self.anchor: Tensor | None = None

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self.start, self.path = weights(strategy.model).clone(), torch.zeros(1)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.before = weights(strategy.model).clone()

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        if self.anchor is not None:
            importance = torch.as_tensor(self.total).clamp(max=CUT)
            theta = torch.cat([p.flatten() for p in strategy.model.parameters()])
            strategy.loss = strategy.loss + STRENGTH / 2 * (importance * (theta - self.anchor).square()).sum()

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        gradient = torch.cat([p.grad.flatten() for p in strategy.model.parameters()])
        self.path = self.path - gradient * (weights(strategy.model) - self.before)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        now = weights(strategy.model).clone()
        self.total = self.total + self.path / ((now - self.start).square() + XI)
        self.anchor = now


def trained(*plugins: Any) -> Tensor:
    torch.manual_seed(0)
    model = mlp(6, 8, 3, dtype=torch.float32)
    strategy = learner(model, *plugins, lr=0.1, epochs=5)
    for experience in tasks(3, dtype=torch.float32).train_stream:
        strategy.train(experience, eval_streams=[])
    return weights(model)


def test_it_is_the_papers_penalty() -> None:
    plain, own, by_hand = trained(), trained(SI(si_lambda=STRENGTH)), trained(ByHand())
    torch.testing.assert_close(own, by_hand, rtol=1e-3, atol=1e-4)
    assert float((own - plain).abs().max()) > 0.05


def test_avalanches_own_does_nothing_on_a_cpu() -> None:
    """If this fails Avalanche has mended it, and ``SI`` can go."""
    torch.testing.assert_close(trained(SynapticIntelligencePlugin(si_lambda=STRENGTH)), trained(), rtol=0, atol=1e-6)
