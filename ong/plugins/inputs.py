"""The layer that reads a batch's inputs as they are, and loaders that bring along what is worked out from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ong.curvature import Batch
from ong.streams import TensorLoader

__all__ = ["enriched", "reader_of_inputs"]


def reader_of_inputs(
    modules: Mapping[str, nn.Module], forward: Callable[[Batch], Tensor], batch: Batch
) -> tuple[Tensor, str | None]:
    """Return a forward's outputs, and which module alone was called with the batch's inputs, flattened, and only once.

    Args:
        modules: those that are asked about.
        forward: maps a batch to outputs.
        batch: inputs and whatever else ``forward`` wants.
    """
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, args[0])))
        for name, module in modules.items()
    ]
    try:
        outputs = forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    flat = batch[0].flatten(1)
    direct = [name for name, x in seen if x.shape == flat.shape and torch.equal(x, flat)]
    calls = [name for name, _ in seen]
    return outputs, direct[0] if len(direct) == 1 and calls.count(direct[0]) == 1 else None


def enriched(loader: Any, work: Callable[[Tensor], Tensor], width: int, most: int) -> Any:
    """Return a loader whose batches bring a further column along before the last, worked out once for all examples.

    Args:
        loader: the strategy's.
        work: maps flattened inputs ``[n, …]`` to the column's rows ``[n, width]``.
        width: of the column.
        most: numbers the column may have.

    Returns:
        The same loader where the data do not lie in memory or the column would be too large.
    """
    if type(loader) is not TensorLoader or loader.rows * width > most:
        return loader
    inputs = loader.columns[0]
    column = torch.cat([work(inputs[start : start + 4096].flatten(1)) for start in range(0, len(inputs), 4096)])
    richer = TensorLoader(
        [*loader.columns[:-1], column, loader.columns[-1]],
        batch_size=loader.batch_size,
        shuffle=loader.shuffle,
        seed=loader.seed,
        drop_last=loader.drop_last,
    )
    richer.epoch = loader.epoch
    return richer
