"""The examples of a task, whatever they come in: a loader, a data set, a list of tensors or of batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, default_collate
from torch.utils.data.distributed import DistributedSampler

from ong.curvature import Batch, batch_size, map_batch, targets_of
from ong.errors import UserError

__all__ = ["Examples", "Rows"]

_BATCH = 256  # examples a forward when a task's examples are gone through


class Rows(Protocol):
    """Examples that can be had by number."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Batch:
        """Return some of them as a batch."""


class _Columns:
    """Tensors with examples first, or what can be indexed like them."""

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def take(self, index: Tensor) -> Batch:
        return [column[index.to(getattr(column, "device", "cpu"))] for column in self._columns]


class _Items:
    """A data set of items, put together by a collate function; ``only`` are the numbers of those that count."""

    def __init__(self, dataset: Any, collate: Any, only: Sequence[int] | None = None) -> None:
        self._dataset, self._collate, self._only = dataset, collate, only

    def __len__(self) -> int:
        return len(self._dataset) if self._only is None else len(self._only)

    def take(self, index: Tensor) -> Batch:
        numbers = index.tolist() if self._only is None else [self._only[i] for i in index.tolist()]
        if hasattr(self._dataset, "__getitems__"):
            return self._collate(self._dataset.__getitems__(numbers))
        return self._collate([self._dataset[i] for i in numbers])


class _Batches:
    """A list of batches."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches
        self._ends = torch.tensor([batch_size(batch) for batch in batches]).cumsum(0)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def take(self, index: Tensor) -> Batch:
        number = torch.bucketize(index, self._ends, right=True)
        parts = []
        for place, i in enumerate(index.tolist()):
            batch = self._batches[int(number[place])]
            start = int(self._ends[int(number[place])]) - batch_size(batch)
            parts.append(map_batch(lambda t, row=i - start: t[row : row + 1], batch))  # type: ignore[misc]
        return _joined(parts)


def _joined(batches: Sequence[Batch]) -> Batch:
    """Return batches of one structure as one batch."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {key: _joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, Sequence) and not isinstance(first, str | bytes):
        return [_joined(parts) for parts in zip(*batches, strict=True)]
    return first


def _rows_of(data: Any) -> Rows | None:
    """Return data that can be had by number, or None for what can only be gone through."""
    if hasattr(data, "take") and hasattr(data, "__len__"):
        return data  # type: ignore[no-any-return]
    if hasattr(data, "columns"):  # ong.streams.TensorLoader
        return _Columns(data.columns)
    if isinstance(data, DataLoader):
        dataset, sampler = data.dataset, data.sampler
        if not hasattr(dataset, "__getitem__") or data.batch_size is None:
            return None
        if isinstance(sampler, DistributedSampler):
            return _Items(dataset, data.collate_fn, list(sampler))
        whole = isinstance(sampler, SequentialSampler) or (
            isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(dataset)  # type: ignore[arg-type]
        )
        return _Items(dataset, data.collate_fn) if whole else None
    if isinstance(data, Dataset) and hasattr(data, "__getitem__"):
        return _Items(data, getattr(data, "collate_fn", None) or default_collate)
    if isinstance(data, list | tuple) and data:
        if all(isinstance(part, Tensor) for part in data) and len({len(part) for part in data}) == 1:
            return _Columns(data)
        return _Batches(data)
    return None


class Examples:
    """Examples of one task, drawn at random.

    In a program of several processes (``torch.distributed``) each draws its share of the examples, and the shares are
    put together on all of them: so every process measures the same, and keeps the same.
    """

    def __init__(self, data: Any, device: torch.device) -> None:
        """Look at the data.

        Args:
            data: a ``DataLoader``, a ``Dataset``, a list of tensors (inputs, targets, …), a list of batches, or
                anything that yields batches each time it is iterated over.
            device: where batches are wanted.

        Raises:
            UserError: data of another kind, or none.
        """
        self._rows = _rows_of(data)
        self._data = data
        self.device = device
        if self._rows is None and not isinstance(data, Iterable):
            raise UserError(
                f"a task's data are a loader, a Dataset, a list of tensors or of batches, got {type(data).__name__}"
            )
        if self._rows is not None and not len(self._rows):
            raise UserError("a task's data are empty")

    def draw(self, count: int, generator: torch.Generator, *, far: int = 0, shared: bool = True) -> list[Batch]:
        """Draw examples without repetition, in batches of 256; those with a label below 0 (``ignore_index``) are left out.

        Args:
            count: how many, of a random order of all.
            generator: of that order.
            far: how many from the order's end follow them, which a larger ``count`` reaches last.
            shared: whether processes draw together.

        Raises:
            UserError: no example has a label.
        """
        processes = torch.distributed.get_world_size() if shared and _distributed() else 1
        if processes > 1:
            rank = torch.distributed.get_rank()
            count = count // processes + (rank < count % processes)
        drawn = self._drawn(count, generator, far)
        if processes > 1:
            everyone: list[Any] = [None] * processes
            torch.distributed.all_gather_object(everyone, map_batch(lambda t: t.cpu(), drawn))
            drawn = [batch for part in everyone for batch in part]
        batches = [map_batch(lambda t: t.to(self.device), _labelled(batch)) for batch in drawn]
        batches = [batch for batch in batches if batch_size(batch)]
        if not batches:
            raise UserError("none of the examples drawn has a label (all are below 0)")
        return batches

    def _drawn(self, count: int, generator: torch.Generator, far: int) -> list[Batch]:
        rows = self._rows
        if rows is None:
            return self._drawn_in_passing(count + far, generator)
        order = torch.randperm(len(rows), generator=generator)
        chosen = torch.cat([order[:count], order[max(count, len(order) - far) :]]) if far else order[:count]
        return [rows.take(part) for part in torch.split(chosen, _BATCH)]

    def _drawn_in_passing(self, count: int, generator: torch.Generator) -> list[Batch]:
        """Draw from batches that pass by once: every example gets a random number, the smallest stay."""
        kept: Batch = None
        keys = torch.zeros(0, dtype=torch.float64)
        for batch in self._data:
            new = torch.rand(batch_size(batch), generator=generator, dtype=torch.float64)
            below = new < (keys.max() if len(keys) >= count else torch.inf)
            if not below.any():
                continue
            part = map_batch(lambda t, rows=below: t[rows.to(t.device)], batch)  # type: ignore[misc]
            kept, keys = (part if kept is None else _joined([kept, part])), torch.cat([keys, new[below]])
            stay = keys.argsort()[:count]
            keys = keys[stay]
            kept = map_batch(lambda t, rows=stay: t[rows.to(t.device)], kept)  # type: ignore[misc]
        if kept is None:
            raise UserError("a task's data are empty; an iterator that is used up cannot be gone through again")
        size = batch_size(kept)
        return [map_batch(lambda t, s=start: t[s : s + _BATCH], kept) for start in range(0, size, _BATCH)]  # type: ignore[misc]


def _labelled(batch: Batch) -> Batch:
    targets = targets_of(batch)
    if targets is None or targets.is_floating_point() or targets.ndim != 1 or not bool((targets < 0).any()):
        return batch
    return map_batch(lambda t: t[(targets >= 0).to(t.device)], batch)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
