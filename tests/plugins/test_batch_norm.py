"""Running statistics of a residual net that nobody here wrote."""

from __future__ import annotations

import pytest
import torch
from avalanche.models import SlimResNet18
from avalanche.training.plugins import EvaluationPlugin
from avalanche.training.supervised import Naive
from torch import nn

import ong
from ong.streams import TaskData, benchmark_from_tensors


@pytest.mark.parametrize(("batch_norm", "moves"), [("freeze", False), ("update", True)])
def test_at_rate_0_a_shifted_task_moves_stored_logits_only_where_statistics_are_updated(
    batch_norm: str, moves: bool
) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(16, 3, 32, 32), torch.arange(16) % 4
    stream = benchmark_from_tensors([TaskData((x, y), (x, y)), TaskData((2 * x + 3, y), (2 * x + 3, y))]).train_stream
    model = SlimResNet18(nclasses=4, nf=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    learner = Naive(
        model=model,
        optimizer=optimizer,
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=8,
        plugins=[ong.OGD(directions_per_task=4, batch_norm=batch_norm)],
        evaluator=EvaluationPlugin(),
    )
    learner.train(stream[0], eval_streams=[])
    model.eval()
    stored = model(x).detach()
    optimizer.param_groups[0]["lr"] = 0.0
    learner.train(stream[1], eval_streams=[])
    model.eval()
    assert torch.equal(model(x), stored) is not moves
