"""The examples of a task, whatever they come in: a loader, a data set, a list of tensors or of batches."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler

from ong.curvature import Batch, batch_size, map_batch, targets_of
from ong.errors import UserError

__all__ = ["ByNumber", "Examples", "joined"]

_TELLING = 16  # examples that tell whether processes hold the same data
_BATCH = 256  # examples a forward when a task's examples are gone through


class ByNumber(ABC):
    """Examples that can be had by number.

    Attributes:
        is_share: whether these are a part of the task's examples, others being in other processes.
    """

    is_share = False

    @abstractmethod
    def __len__(self) -> int:
        """Return how many there are."""

    @abstractmethod
    def take(self, index: Tensor) -> Batch:
        """Return some of them as a batch."""


class _Columns(ByNumber):
    """Tensors with examples first, or what can be indexed like them."""

    def __init__(self, columns: Any) -> None:
        self._columns = columns

    def __len__(self) -> int:
        return len(self._columns[0])

    def take(self, index: Tensor) -> Batch:
        return [column[index.to(getattr(column, "device", "cpu"))] for column in self._columns]


class _Items(ByNumber):
    """A data set of items, put together by a collate function; ``only`` are the numbers of those that count."""

    def __init__(self, dataset: Any, collate: Any, only: Sequence[int] | None = None) -> None:
        self._dataset, self._collate, self._only = dataset, collate, only
        self.is_share = only is not None  # of one process

    def __len__(self) -> int:
        return len(self._dataset) if self._only is None else len(self._only)

    def take(self, index: Tensor) -> Batch:
        numbers = index.tolist() if self._only is None else [self._only[i] for i in index.tolist()]
        if hasattr(self._dataset, "__getitems__"):
            return self._collate(self._dataset.__getitems__(numbers))
        return self._collate([self._dataset[i] for i in numbers])


class _Batches(ByNumber):
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
        return joined(parts)


def joined(batches: Sequence[Batch]) -> Batch:
    """Return batches of one structure as one batch."""
    first = batches[0]
    if isinstance(first, Tensor):
        return torch.cat(list(batches))
    if isinstance(first, Mapping):
        return {key: joined([batch[key] for batch in batches]) for key in first}
    if isinstance(first, Sequence) and not isinstance(first, str | bytes):
        return [joined(parts) for parts in zip(*batches, strict=True)]
    return first


def _rows_of(data: Any) -> ByNumber | None:
    """Return data that can be had by number, or None for what can only be gone through."""
    if isinstance(data, ByNumber):
        return data
    if hasattr(data, "columns") and hasattr(data, "batch_size"):  # ong.streams.TensorLoader
        return _Columns(data.columns)
    if isinstance(data, DataLoader):
        return _rows_of_loader(data)
    if isinstance(data, IterableDataset):
        raise UserError(f"{type(data).__name__} yields examples; wrap it in a DataLoader, which yields batches")
    if isinstance(data, Dataset) and hasattr(data, "__getitem__"):
        return _Items(data, getattr(data, "collate_fn", None) or default_collate)
    if isinstance(data, Mapping):  # one batch
        return _Batches([data])
    if isinstance(data, list | tuple) and data:
        if all(isinstance(part, Tensor) for part in data) and len({len(part) for part in data}) == 1:
            return _Columns(data)
        return _Batches(data)
    return None


def _rows_of_loader(loader: DataLoader[Any]) -> ByNumber | None:
    """Return the items of a loader that goes through a whole data set, or a process's share of it."""
    dataset: Any = loader.dataset
    sampler: Any = loader.batch_sampler
    while hasattr(sampler, "batch_sampler"):  # accelerate's, of a process's share of the batches or of the last ones
        sampler = sampler.batch_sampler
    if not hasattr(dataset, "__getitem__") or type(sampler) is not BatchSampler:
        return None
    numbers = sampler.sampler
    if isinstance(numbers, DistributedSampler):
        of_all = numbers.dataset is dataset
        return _Items(dataset, loader.collate_fn, None if of_all else list(numbers))
    whole = isinstance(numbers, SequentialSampler) or (
        isinstance(numbers, RandomSampler) and not numbers.replacement and len(numbers) == len(dataset)
    )
    return _Items(dataset, loader.collate_fn) if whole else None


class Examples:
    """Examples of one task, drawn at random.

    In a program of several processes (``torch.distributed``) each loads its share of the examples, and the shares are
    put together on all of them: so every process measures the same, and keeps the same. Of data that can be had by
    number these are the batches that one process alone would draw, in its order.
    """

    def __init__(self, data: Any, device: torch.device) -> None:
        """Look at the data.

        Args:
            data: a ``DataLoader``, a ``Dataset``, one batch as a list of tensors (inputs, targets, …) or a dictionary,
                a list of batches, or anything that yields batches each time it is iterated over.
            device: where batches are wanted.

        Raises:
            UserError: data of another kind, or none.
        """
        if isinstance(data, Tensor):
            raise UserError(
                f"a task's data are a loader, a Dataset, a list of tensors or of batches, got one tensor of shape "
                f"{list(data.shape)}; with targets it is a list: [inputs, targets]"
            )
        self._rows = _rows_of(data)
        self._data = data
        self._probe: Batch | None = None
        self.device = device
        if self._rows is None and not isinstance(data, Iterable):
            raise UserError(
                f"a task's data are a loader, a Dataset, a list of tensors or of batches, got {type(data).__name__}"
            )
        if self._rows is not None and not len(self._rows):
            raise UserError("a task's data are empty")

    @property
    def count(self) -> int | None:
        """How many examples there are; None where that cannot be told before they are gone through."""
        return None if self._rows is None or self._rows.is_share else len(self._rows)

    def probe(self, count: int) -> Batch:
        """Return a few examples, always the same, of this process alone."""
        if self._probe is None:
            self._probe = self.draw(count, torch.Generator().manual_seed(0), shared=False)[0]
        return self._probe

    def draw(self, count: int, generator: torch.Generator, *, far: int = 0, shared: bool = True) -> list[Batch]:
        """Draw examples without repetition, in batches of 256, but for those whose label is below 0 (``ignore_index``).

        Args:
            count: how many, of a random order of all.
            generator: of that order.
            far: how many from the order's end follow them, which a larger ``count`` reaches last.
            shared: whether processes draw together.

        Raises:
            UserError: no example has a label.
        """
        processes = torch.distributed.get_world_size() if shared and _distributed() else 1
        rank = torch.distributed.get_rank() if processes > 1 else 0
        if processes > 1 and self._rows is not None and not self._rows.is_share:
            self._rows.is_share = not _same_everywhere(self._rows, processes)
        drawn = self._drawn(count, generator, far, rank, processes)
        if processes > 1:
            everyone: list[Any] = [None] * processes
            torch.distributed.all_gather_object(everyone, map_batch(lambda t: t.cpu(), drawn))
            drawn = [batch for turn in itertools.zip_longest(*everyone) for batch in turn if batch is not None]
        batches = [map_batch(lambda t: t.to(self.device), _labelled(batch)) for batch in drawn]
        batches = [batch for batch in batches if batch_size(batch)]
        if not batches:
            if self._rows is None or count >= len(self._rows):
                raise UserError("none of the examples has a label (all are below 0)")
            return self.draw(8 * count, generator, far=far, shared=shared)  # few have one
        return batches

    def _drawn(self, count: int, generator: torch.Generator, far: int, rank: int, processes: int) -> list[Batch]:
        """Draw the share of one process."""
        rows = self._rows
        if rows is None or rows.is_share:  # other processes have other examples
            count = count // processes + (rank < count % processes)
        if rows is None:
            return self._drawn_in_passing(count + far, generator)
        order = torch.randperm(len(rows), generator=generator)
        chosen = torch.cat([order[:count], order[max(count, len(order) - far) :]]) if far else order[:count]
        batches = torch.split(chosen, _BATCH)
        mine = batches if rows.is_share else batches[rank::processes]
        return [rows.take(part) for part in mine if len(part)]

    def _drawn_in_passing(self, count: int, generator: torch.Generator) -> list[Batch]:
        """Draw from batches that pass by once: every example gets a random number, the smallest stay."""
        kept: Batch = None
        keys = torch.zeros(0, dtype=torch.float64)
        empty = True
        for batch in map(_labelled, self._data):
            empty = False
            new = torch.rand(batch_size(batch), generator=generator, dtype=torch.float64)
            below = new < (keys.max() if len(keys) >= count else torch.inf)
            if not below.any():
                continue
            part = map_batch(lambda t, rows=below: t[rows.to(t.device)], batch)  # type: ignore[misc]
            kept, keys = (part if kept is None else joined([kept, part])), torch.cat([keys, new[below]])
            stay = keys.argsort()[:count]
            keys = keys[stay]
            kept = map_batch(lambda t, rows=stay: t[rows.to(t.device)], kept)  # type: ignore[misc]
        if kept is None and not empty:
            raise UserError("none of the examples has a label (all are below 0)")
        if kept is None:
            raise UserError("a task's data are empty; an iterator that is used up cannot be gone through again")
        size = batch_size(kept)
        return [map_batch(lambda t, s=start: t[s : s + _BATCH], kept) for start in range(0, size, _BATCH)]  # type: ignore[misc]


def _labelled(batch: Batch) -> Batch:
    targets = targets_of(batch)
    if targets is None or targets.is_floating_point() or targets.ndim != 1 or not bool((targets < 0).any()):
        return batch
    return map_batch(lambda t: t[(targets >= 0).to(t.device)], batch)


def _same_everywhere(rows: ByNumber, processes: int) -> bool:
    """Return whether all processes hold the same examples, by some of them."""
    some = rows.take(torch.linspace(0, len(rows) - 1, _TELLING).long())
    sums: list[float] = []
    map_batch(lambda t: sums.extend(t.double().flatten(1).sum(1).tolist() if t.ndim > 1 else t.double().tolist()), some)
    everyone: list[Any] = [None] * processes
    torch.distributed.all_gather_object(everyone, (len(rows), sums))
    return all(found == everyone[0] for found in everyone)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
