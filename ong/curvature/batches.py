"""Batches of any shape people use, (x, y, …) or a dictionary, examples first in every tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader

from ong.errors import UserError

__all__ = ["Batch", "Forward", "batch_size", "checked_logits", "logits_of", "map_batch", "select", "targets_of"]

Batch = Any
"""A tensor, or a (nested) sequence or mapping of tensors with examples first."""
Forward = Callable[[Batch], Tensor]
"""Maps a batch to the logits ``[N, C]``."""


def map_batch(function: Callable[[Tensor], Any], batch: Batch) -> Batch:
    """Return the batch with a function applied to each of its tensors; whatever else it holds stays."""
    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, Mapping):
        return {key: map_batch(function, part) for key, part in batch.items()}
    if isinstance(batch, Sequence) and not isinstance(batch, str | bytes):
        return [map_batch(function, part) for part in batch]
    return batch


def batch_size(batch: Batch) -> int:
    """Return the number of examples: the length of the first tensor."""
    sizes: list[int] = []
    map_batch(lambda tensor: sizes.append(len(tensor)), batch)
    if not sizes:
        hint = "; give one batch: next(iter(loader))" if isinstance(batch, DataLoader) else ""
        raise UserError(f"a batch of type {type(batch).__name__} holds no tensor{hint}")
    return sizes[0]


def targets_of(batch: Batch) -> Tensor | None:
    """Return a batch's targets, the second of (x, y, …) or ``"labels"``; integers as int64 ``[N]``."""
    found = None
    if isinstance(batch, Mapping):
        found = batch.get("labels", batch.get("label"))
    elif not isinstance(batch, Tensor) and len(batch) > 1:
        found = batch[1]
    if not isinstance(found, Tensor):
        return None
    if found.is_floating_point():
        return found
    labels = found.long()
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Run a model on a batch the way most are run: ``model(x)``, or ``model(**inputs)`` for a dictionary.

    Outputs with ``.logits`` (those of transformers) give these; a vector ``[N]`` becomes ``[N, 1]``.
    """
    if isinstance(batch, Mapping):
        outputs = model(**{key: part for key, part in batch.items() if key not in ("labels", "label")})
    else:
        outputs = model(batch if isinstance(batch, Tensor) else batch[0])
    logits: Any = getattr(outputs, "logits", outputs)
    return checked_logits(logits, batch)


def checked_logits(outputs: Any, batch: Batch) -> Tensor:
    """Return outputs as ``[N, C]``.

    Raises:
        UserError: outputs of another kind, with what to pass instead.
    """
    if isinstance(outputs, Tensor):
        logits: Tensor = outputs[:, None] if outputs.ndim == 1 else outputs
        if logits.ndim == 2 and len(logits) == batch_size(batch):
            return logits
        what = f"outputs of shape {list(outputs.shape)} for {batch_size(batch)} examples"
    else:
        what = f"a {type(outputs).__name__}"
    raise UserError(
        f"the model returns {what}, where [examples, outputs] is expected; pass logits=FUNCTION, from a batch to these"
    )


def select(batch: Batch, index: Tensor | slice) -> Batch:
    """Return some of a batch's examples."""
    return map_batch(lambda t: t[index if isinstance(index, slice) else index.to(t.device)], batch)
