"""Why there is an ``SI`` here beside Avalanche's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.training.plugins import SynapticIntelligencePlugin
from harness import learner, stream, train, weights
from nets import mlp
from torch import Tensor

from ong.plugins import SI

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")


def trained(*plugins: Any) -> Tensor:
    model = mlp(6, 8, 3, dtype=torch.float32)
    train(learner(model, *plugins, lr=0.1, epochs=5), stream(dtype=torch.float32))
    return weights(model)


def test_avalanches_own_does_nothing_on_a_cpu_and_ours_does() -> None:
    """docs/methods.md says so. If this fails Avalanche has mended it."""
    plain = trained()
    torch.testing.assert_close(trained(SynapticIntelligencePlugin(si_lambda=2000.0)), plain, rtol=0, atol=1e-6)
    assert float((trained(SI(strength=20.0)) - plain).abs().max()) > 0.01
