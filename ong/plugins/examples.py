"""Examples of a task, and how the model is run on them."""

from __future__ import annotations

from typing import Any

import torch
from avalanche.models.utils import avalanche_forward
from torch import Tensor
from torch.utils.data import default_collate

from ong.curvature import Batch
from ong.streams.avalanche_tensors import in_memory_columns

__all__ = ["draw_examples", "forward_of", "probe_batch"]

_BATCH = 256  # examples a forward when a task's examples are gone through


def draw_examples(strategy: Any, count: int, generator: torch.Generator, *, far: int = 0) -> list[Batch]:
    """Draw examples of the current experience without repetition, in batches of 256 on the model's device.

    Args:
        strategy: the strategy.
        count: how many, of a random order of all.
        generator: of that order.
        far: how many from the order's end follow them, which a larger ``count`` reaches last.
    """
    dataset = strategy.experience.dataset.eval()
    order = torch.randperm(len(dataset), generator=generator)
    chosen = torch.cat([order[:count], order[max(count, len(order) - far) :]]) if far else order[:count]
    columns = in_memory_columns(dataset)
    if columns is not None:
        batches = [[column[part] for column in columns] for part in torch.split(chosen, _BATCH)]
    else:
        collate = getattr(dataset, "collate_fn", None) or default_collate
        batches = [collate([dataset[i] for i in part.tolist()]) for part in torch.split(chosen, _BATCH)]
    return [[part.to(strategy.device) for part in batch] for batch in batches]


def probe_batch(strategy: Any) -> Batch:
    """Return a few examples of the current experience, always the same, to look at how the model treats them."""
    return draw_examples(strategy, 8, torch.Generator().manual_seed(0))[0]


def forward_of(strategy: Any, batch: Batch) -> Tensor:
    """Run the model as Avalanche does: with the batch's task labels when it has heads for them."""
    logits: Tensor = avalanche_forward(strategy.model, batch[0], batch[-1])
    return logits
