"""Of avalanche.models."""

from __future__ import annotations

from typing import Any

import torch
from third_party.cases import CLASSES, Case, images, sequences
from torch import Tensor, nn

from ong.curvature import Batch


def _of(name: str, **options: Any) -> nn.Module:
    import avalanche.models

    model: nn.Module = getattr(avalanche.models, name)(**options)
    return model


def _multi_task() -> nn.Module:
    model: Any = _of("MTSlimResNet18", nclasses=CLASSES, nf=4)
    model.linear.masking = False  # of classes that no experience has brought yet
    return model  # type: ignore[no-any-return]


def _by_task(model: nn.Module, batch: Batch) -> Tensor:
    logits: Tensor = model(batch[0], task_labels=int(batch[2][0]))
    return logits


def _images_and_task(generator: torch.Generator) -> Batch:
    """Avalanche's batches ``[x, y, task]``."""
    x, y = images(32)(generator)
    return [x, y, torch.zeros_like(y)]


CASES: dict[str, Case] = {
    "SimpleMLP": Case(lambda: _of("SimpleMLP", num_classes=CLASSES, input_size=48, hidden_size=12, hidden_layers=2), images(4)),
    "SimpleCNN": Case(lambda: _of("SimpleCNN", num_classes=CLASSES), images(32)),
    "LeNet5": Case(lambda: _of("LeNet5", n_classes=CLASSES, input_channels=3), images(32)),
    "SlimResNet18": Case(lambda: _of("SlimResNet18", nclasses=CLASSES, nf=4), images(32)),
    "MTSlimResNet18": Case(_multi_task, _images_and_task, _by_task),
    "IcarlNet": Case(lambda: _of("IcarlNet", num_classes=CLASSES, n=1), images(32)),
    "SimpleSequenceClassifier": Case(
        lambda: _of("SimpleSequenceClassifier", input_size=4, hidden_size=6, n_classes=CLASSES, rnn_layers=2), sequences(4)
    ),
}  # fmt: skip
