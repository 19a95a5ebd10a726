"""A data set whose batches are gathered at once, in any loader.

PyTorch's loaders fetch the items of a batch one by one and join them by ``default_collate``. For small images, reading
an item through Avalanche's data set takes longer than the net's step. Here an item is a row number until one of its
values is asked for, and ``default_collate``, which has a registry of types, gathers a batch's rows from the tensors.

This works in every loader, also in those of Avalanche that join data sets by torch's ``ConcatDataset``, which does not
use ``__getitems__``. Any other collate function reads the items, and finds Avalanche's values.
"""

from __future__ import annotations

from collections.abc import MutableSequence, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import TaskAwareSupervisedClassificationDataset
from torch.utils.data._utils.collate import collate, default_collate_fn_map

from ong.streams.experiences.columns import in_memory_columns
from ong.streams.tensors import Segments

__all__ = ["InMemoryDataset", "Item"]

_INTEGERS = (int, np.integer)


class Item(MutableSequence[Any]):
    """The list (x, y, task label) of one example, read from its data set when a value is first asked for.

    Attributes:
        dataset: The data set.
        row: The example's number in it.
    """

    __slots__ = ("_values", "dataset", "row")

    def __init__(self, dataset: InMemoryDataset, row: int) -> None:
        self.dataset = dataset
        self.row = row
        self._values: list[Any] | None = None

    def _read(self) -> list[Any]:
        if self._values is None:
            self._values = self.dataset._read(self.row)
        return self._values

    def __len__(self) -> int:
        return len(self._read())

    def __getitem__(self, place: Any) -> Any:
        return self._read()[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self._read()[place] = value

    def __delitem__(self, place: Any) -> None:
        del self._read()[place]

    def insert(self, index: int, value: Any) -> None:
        """Insert a value, as Avalanche does with the attributes of a data set that wraps this one."""
        self._read().insert(index, value)

    def __copy__(self) -> list[Any]:
        return list(self._read())

    def __repr__(self) -> str:
        return repr(self._read())


class InMemoryDataset(TaskAwareSupervisedClassificationDataset):  # type: ignore[misc]  # Avalanche is untyped
    """Avalanche's data set with items of type ``Item``, while its data are untransformed tensors.

    Subsets, concatenations and copies of it are of this class too. Where they have been given transforms, other data
    or a collate function, their items are Avalanche's own.
    """

    _found: tuple[Any, list[Segments] | None, range] = (None, None, range(0))

    def _look(self) -> tuple[Any, list[Segments] | None, range]:
        """Return the tensors behind the items and their rows, looked for once.

        They belong to ``_flat_data``, of which all that Avalanche derives from a data set has a new one.
        """
        if self._found[0] is not self._flat_data:
            self._found = (self._flat_data, in_memory_columns(self), range(len(self)))
        return self._found

    def __getitem__(self, index: Any) -> Any:
        """Return an item, or what Avalanche makes of a slice."""
        _, columns, rows = self._look()
        if columns is None or not isinstance(index, _INTEGERS):
            return super().__getitem__(index)
        return Item(self, rows[index])

    def _read(self, row: int) -> list[Any]:
        return list(super().__getitem__(row))


def _gather(items: Sequence[Any], *, collate_fn_map: Any = None) -> list[torch.Tensor]:
    """Return the batch that ``default_collate`` makes of the items' values."""
    runs = [(source, list(run)) for source, run in groupby(items, key=_source)]
    if all(source is not None for source, _ in runs):
        parts = [_rows(run) for _, run in runs]
        if len(parts) == 1:
            return parts[0]
        if len({tuple((column.shape[1:], column.dtype, column.device) for column in part) for part in parts}) == 1:
            return [torch.cat(columns) for columns in zip(*parts, strict=True)]
    return collate([list(item) for item in items], collate_fn_map=collate_fn_map)  # type: ignore[no-any-return]


def _source(item: Any) -> int | None:
    """Return which data set an unread item is of; None for other items."""
    return id(item.dataset) if type(item) is Item and item._values is None else None


def _rows(items: list[Item]) -> list[torch.Tensor]:
    """Return the batch of unread items of one data set."""
    _, columns, _ = items[0].dataset._look()
    index = torch.tensor([item.row for item in items])
    return [column[index] for column in columns or ()]


default_collate_fn_map[Item] = _gather
