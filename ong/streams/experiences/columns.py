"""Find the tensors behind an Avalanche data set.

``AvalancheDataset`` keeps its content as a tree: leaves are ordinary data sets, inner nodes concatenate them
and select rows (``FlatData``, private in Avalanche 0.6, which ``ong`` pins). When all leaves are
``TensorDataset``s, or data sets of images that are prepared by rows, and no transform applies, the whole is a set of
tensors and rows, and batches need no item-by-item access.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.classification_dataset import _TensorClassificationDataset
from avalanche.benchmarks.utils.flat_data import ConstantSequence, FlatData
from torch.utils.data import Dataset, TensorDataset, default_collate

from ong.streams.stored import PreparedImages
from ong.streams.tensors import Segments

__all__ = ["PreparedDataset", "in_memory_columns"]


class PreparedDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images that are prepared when they are asked for, and their labels; as ``TensorDataset`` is of tensors.

    Attributes:
        tensors: the images and the labels.
    """

    def __init__(self, images: PreparedImages, labels: torch.Tensor) -> None:
        self.tensors = (images, labels)

    def __len__(self) -> int:
        return len(self.tensors[1])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return an example."""
        return self.tensors[0][index], self.tensors[1][index]


def in_memory_columns(dataset: Any) -> list[Segments] | None:
    """Return the columns whose rows are the items of an Avalanche data set.

    Args:
        dataset: The data set, in the transform group to be used.

    Returns:
        For items (x, y, task label), three columns in that order, row i holding what ``default_collate``
        makes of item i. None when the data are not tensors in memory, or are transformed or collated in some
        way of their own.
    """
    if not isinstance(dataset, AvalancheDataset) or len(dataset) == 0 or dataset.collate_fn is not default_collate:
        return None
    flat = dataset._flat_data
    columns = _data_columns(flat, flat._transform_groups.current_group)
    if columns is None:
        return None
    for attribute in dataset._data_attributes.values():
        if attribute.use_in_getitem:
            column = _attribute_column(attribute.data)
            if column is None:
                return None
            columns.append(column)
    return columns


def _data_columns(data: Any, group: str) -> list[Segments] | None:
    """Return the columns of a node of the tree, or None."""
    if type(data) in (TensorDataset, _TensorClassificationDataset, PreparedDataset):
        return [Segments([tensor]) for tensor in data.tensors]
    if not isinstance(data, FlatData) or _is_transformed(data, group):
        return None
    children = []
    for child in data._datasets:
        columns = _data_columns(child, group)
        if columns is None:
            return None
        children.append(columns)
    if not _stackable(children):
        return None
    return [_selected(Segments.concat(parts), data._indices) for parts in zip(*children, strict=True)]


def _is_transformed(data: Any, group: str) -> bool:
    """Whether a node applies a transform of its own in the transform group given."""
    for name in ("_transform_groups", "_frozen_transform_groups"):
        groups = getattr(data, name, None)
        if groups is not None:
            try:
                if groups[group] is not None:
                    return True
            except KeyError:  # Avalanche raises it too, when it comes to an item
                return True
    return False


def _stackable(children: list[list[Segments]]) -> bool:
    """Whether the nodes' columns agree in number, trailing sizes, dtypes and devices."""
    kinds = {tuple((p.shape[1:], p.dtype, p.device) for p in (c.parts[0] for c in columns)) for columns in children}
    return len(kinds) == 1


def _attribute_column(data: Any) -> Segments | None:
    """Return the values of a data attribute as a column of integers, or None when they are not integers."""
    if isinstance(data, ConstantSequence):
        value = data[0]
        return Segments([torch.tensor([value]).expand(len(data))]) if isinstance(value, int) else None
    if isinstance(data, FlatData):
        children = [_attribute_column(child) for child in data._datasets]
        columns = [column for column in children if column is not None]
        return _selected(Segments.concat(columns), data._indices) if len(columns) == len(children) > 0 else None
    values = list(data)
    if not all(isinstance(value, int) for value in values):
        return None
    return Segments([torch.tensor(values, dtype=torch.int64)])


def _selected(column: Segments, indices: Iterable[int] | None) -> Segments:
    if indices is None:
        return column
    return column.select(torch.from_numpy(np.fromiter(indices, dtype=np.int64)))
