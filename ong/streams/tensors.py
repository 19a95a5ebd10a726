"""Mini-batches cut from whole tensors.

A ``DataLoader`` fetches and collates sample by sample; for small images that costs several times the training
step. Here a batch is a slice: rows are gathered by the thousand and batches are views of what was gathered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from ong.streams.stored import PreparedImages

__all__ = ["Segments", "TensorLoader", "epoch_order"]

_CHUNK_ROWS = 1024
Rows = torch.Tensor | PreparedImages


class Segments:
    """Several tensors seen as one along the first dimension, without concatenating them.

    Ten tasks' images concatenated would exist twice in memory; here only the rows asked for are copied.

    Attributes:
        parts: Tensors of shapes (N₁, …), (N₂, …), … with equal trailing sizes, dtype and device, or images that are
            prepared when they are asked for.
        rows: int64 (N,): which rows of the concatenation of ``parts`` count, in order; None for all.
    """

    def __init__(self, parts: Sequence[Rows], rows: torch.Tensor | None = None) -> None:
        self.parts = tuple(parts)
        self.rows = rows
        self._ends = torch.tensor([len(part) for part in self.parts]).cumsum(0)

    @classmethod
    def concat(cls, columns: Sequence[Segments]) -> Segments:
        """Return the rows of all ``columns``, one after the other."""
        parts = [part for column in columns for part in column.parts]
        if all(column.rows is None for column in columns):
            return cls(parts)
        rows, start = [], 0
        for column in columns:
            rows.append(start + (torch.arange(len(column)) if column.rows is None else column.rows))
            start += int(column._ends[-1])
        return cls(parts, torch.cat(rows))

    def select(self, rows: torch.Tensor) -> Segments:
        """Return the rows given, int64 (M,), still without copying their content."""
        return Segments(self.parts, rows if self.rows is None else self.rows[rows])

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.rows is None else len(self.rows)

    def __getitem__(self, index: slice | torch.Tensor) -> torch.Tensor:
        """Return rows as a tensor (M, …); a view when a slice of a single part is asked for."""
        if isinstance(index, slice):
            if len(self.parts) == 1 and self.rows is None:
                return self.parts[0][index]
            index = torch.arange(len(self))[index]
        rows = index if self.rows is None else self.rows[index.cpu()]
        first = self.parts[0]
        if len(self.parts) == 1:
            return _selected(first, rows)
        rows = rows.cpu()
        gathered = torch.empty((len(rows), *first.shape[1:]), dtype=first.dtype, device=first.device)
        part_of_row = torch.bucketize(rows, self._ends, right=True)
        for number in set(part_of_row.tolist()):
            part = self.parts[number]
            places = (part_of_row == number).nonzero().squeeze(1)
            within = rows[places] - (self._ends[number] - len(part))
            gathered[places.to(part.device)] = part[within.to(part.device)]
        return gathered


def _selected(part: Rows, rows: torch.Tensor) -> torch.Tensor:
    """Return rows of a part; of a tensor by ``index_select``, which copies whole rows, where indexing takes numbers."""
    rows = rows.to(part.device)
    return part.index_select(0, rows) if isinstance(part, torch.Tensor) else part[rows]


def epoch_order(count: int, seed: Sequence[int], epoch: int) -> torch.Tensor:
    """Return the order of ``count`` examples in an epoch, int64 (count,); it depends on the arguments alone.

    ``seed`` and ``epoch`` are mixed by NumPy's ``SeedSequence``, so neighbouring seeds and epochs have
    unrelated orders.
    """
    state = np.random.SeedSequence([*seed, epoch]).generate_state(1, np.uint64)
    return torch.randperm(count, generator=torch.Generator().manual_seed(int(state[0])))


class TensorLoader:
    """Iterate over mini-batches of tensors that lie in memory.

    Each pass is an epoch and, when shuffled, has its own order, :func:`epoch_order`. Nothing global is drawn
    from.

    Attributes:
        epoch: How many passes have begun; the next pass has this number. It may be set, to resume.
    """

    def __init__(
        self,
        columns: Sequence[torch.Tensor | Segments],
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int | Sequence[int] = 0,
        drop_last: bool = False,
    ) -> None:
        """Prepare to iterate.

        Args:
            columns: What a batch consists of, such as inputs (N, …), labels (N,) and task labels (N,).
            batch_size: Rows in a batch; the last one may be shorter.
            shuffle: Visit the rows in an order of their own each epoch.
            seed: One or several non-negative numbers that, with the epoch, determine the order.
            drop_last: Leave out a last batch that is shorter.

        Raises:
            ValueError: The columns differ in length, there are none, or ``batch_size`` is not positive.
        """
        lengths = [len(column) for column in columns]
        if len(set(lengths)) != 1:
            raise ValueError(f"columns have lengths {lengths}, expected one length, of at least one column")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        self.columns = tuple(columns)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = (int(seed),) if isinstance(seed, int | np.integer) else tuple(seed)
        self.drop_last = drop_last
        self.epoch = 0

    @property
    def rows(self) -> int:
        """How many rows an epoch has, before any are dropped."""
        return len(self.columns[0])

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return self.rows // self.batch_size if self.drop_last else -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[torch.Tensor]]:
        """Begin an epoch; yield lists with a tensor per column."""
        epoch, self.epoch = self.epoch, self.epoch + 1
        return self._batches(epoch_order(self.rows, self.seed, epoch) if self.shuffle else torch.arange(self.rows))

    def _batches(self, order: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        stop = len(self) * self.batch_size if self.drop_last else self.rows
        step = self.batch_size * max(1, _CHUNK_ROWS // self.batch_size)
        for start in range(0, stop, step):
            index = order[start : min(start + step, stop)]
            chunks = [_taken(column, index) for column in self.columns]  # copies: a model may work in place
            for first in range(0, len(index), self.batch_size):
                yield [chunk[first : first + self.batch_size] for chunk in chunks]


def _taken(column: torch.Tensor | Segments, index: torch.Tensor) -> torch.Tensor:
    return column[index] if isinstance(column, Segments) else column.index_select(0, index.to(column.device))
