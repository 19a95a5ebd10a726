"""The layer that reads a batch's inputs as they are, and loaders that bring along what is worked out from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from avalanche.training.templates.update_type.sgd_update import SGDUpdate
from torch import Tensor, nn

from ong.curvature import Batch, Block, EigenBlock, evaluating
from ong.plugins.examples import forward_of, probe_batch
from ong.streams import TensorLoader

__all__ = ["WorkedOut", "block_of_inputs", "reader_of_inputs"]

_ROWS = 4096  # worked out at a time


def reader_of_inputs(strategy: Any, blocks: Mapping[str, Block]) -> str | None:
    """Return the ``Linear`` layer that alone is called with a batch's inputs, flattened, and only once.

    Seen in a forward of a few examples in eval mode: the layer must get their very memory, as they were. (Numbers that
    are equal could be so by chance, where weights in between are zero at first.) None where there is no such layer.
    """
    batch = probe_batch(strategy)
    calls: list[str] = []
    direct: list[str] = []

    def look(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else next(iter(kwargs.values()))
            calls.append(name)
            if x.ndim == 2 and _are(x, batch[0], version):
                direct.append(name)

        return hook

    version = batch[0]._version
    handles = [
        block.module.register_forward_pre_hook(look(name), with_kwargs=True)
        for name, block in blocks.items()
        if type(block.module) is nn.Linear
    ]
    try:
        with evaluating(strategy.model), torch.no_grad():
            forward_of(strategy, batch)
    finally:
        for handle in handles:
            handle.remove()
    return direct[0] if len(direct) == 1 and calls.count(direct[0]) == 1 else None


def block_of_inputs(block: Block, batches: Sequence[Batch]) -> EigenBlock:
    """Return the EKFAC of a ``Linear`` layer that reads the inputs as far as they tell it: A and U_A, and Λ = 0."""
    values = block.values()

    def rows() -> Iterator[Tensor]:
        for batch in batches:
            x = batch[0].flatten(1).to(values)
            read = (block.weight, x), (block.bias, torch.ones_like(x[:, :1]))
            yield torch.cat([columns for parameter, columns in read if parameter is not None], 1)

    return EigenBlock.of_inputs(rows(), block.rows)


def _are(x: Tensor, inputs: Tensor, version: int) -> bool:
    """Return whether x is a view of a batch's whole inputs, which nothing has changed in place since."""
    whole = x.data_ptr() == inputs.data_ptr() and x.numel() == inputs.numel()
    return whole and not x.is_inference() and x._version == version


class WorkedOut:
    """What is worked out once a task from the inputs of all its examples, and handed to the layer batch by batch.

    It travels as a further column of the loader's batches, before the last. The layer gets it for the batch's own
    inputs only: not for others (another forward, inputs with noise), and once.
    """

    def __init__(self) -> None:
        self._loader: Any = None
        self._inputs: Tensor | None = None
        self._version = 0
        self._column: Tensor | None = None

    @staticmethod
    def fits(strategy: Any, width: int, most: int) -> bool:
        """Return whether the column can be: the strategy takes its batches from memory, and in the usual way.

        Args:
            strategy: the strategy, with its loader.
            width: of the column.
            most: numbers the column may have.
        """
        loader = strategy.dataloader
        own_way = type(strategy).training_epoch is not SGDUpdate.training_epoch
        return type(loader) is TensorLoader and not own_way and loader.rows * width <= most

    def enrich(self, strategy: Any, work: Callable[[Tensor], Tensor], width: int, most: int) -> Any:
        """Return a loader that brings the column along.

        Args:
            strategy: the strategy, with its loader.
            work: maps flattened inputs ``[n, …]`` to the column's rows ``[n, width]``.
            width: of the column.
            most: numbers the column may have.

        Returns:
            The same loader where the column does not fit, see :meth:`fits`.
        """
        loader, self._loader = strategy.dataloader, None
        if not self.fits(strategy, width, most):
            return loader
        inputs = loader.columns[0]
        column = work(inputs[:1].flatten(1)).new_empty(len(inputs), width)
        for start in range(0, len(inputs), _ROWS):
            column[start : start + _ROWS] = work(inputs[start : start + _ROWS].flatten(1))
        self._loader = TensorLoader(
            [*loader.columns[:-1], column, loader.columns[-1]],
            batch_size=loader.batch_size,
            shuffle=loader.shuffle,
            seed=loader.seed,
            drop_last=loader.drop_last,
        )
        self._loader.epoch = loader.epoch
        return self._loader

    def offer(self, strategy: Any) -> None:
        """Have the present batch's rows ready, where it comes from the enriched loader."""
        self.take_back()
        if self._loader is not None and strategy.dataloader is self._loader:
            self._inputs, self._column = strategy.mbatch[0], strategy.mbatch[-2]
            self._version = self._inputs._version

    def take_back(self) -> None:
        """Have nothing ready."""
        self._inputs = self._column = None

    def of(self, x: Tensor) -> Tensor | None:
        """Return the rows of inputs, if those are the batch's as they are; the next time nothing."""
        inputs, column = self._inputs, self._column
        self.take_back()
        return column if inputs is not None and _are(x, inputs, self._version) else None
