from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import mlp
from torch import Tensor, nn

Batch = tuple[nn.Sequential, Tensor, Tensor]


@pytest.fixture
def problem() -> Callable[..., Batch]:
    """A small tanh network in float64 with inputs and targets: well within what dense matrices can check."""

    def build(*widths: int, examples: int = 12, seed: int = 0) -> Batch:
        widths = widths or (5, 4, 3)
        generator = torch.Generator().manual_seed(seed + 100)
        x = torch.randn(examples, widths[0], generator=generator, dtype=torch.float64)
        y = torch.randn(examples, widths[-1], generator=generator, dtype=torch.float64)
        return mlp(*widths, seed=seed), x, y

    return build
