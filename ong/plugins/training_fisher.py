"""The current task's Fisher out of a strategy's own passes: when it looks, and what it hands to the running EKFAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ong.curvature import Batch, Block, PassTape, RunningEKFAC, cotangents, evaluating, record
from ong.plugins.examples import forward_of

__all__ = ["TrainingFisher"]


class TrainingFisher(RunningEKFAC):
    """A :class:`ong.curvature.RunningEKFAC` that reads training.

    Between :meth:`open` and :meth:`close` the strategy's forward is taken note of, and :meth:`read` takes in what the
    backward after it left. A loss that sums over examples says so by ``reduction="sum"``; any other counts as a mean.
    """

    def __init__(self, blocks: Mapping[str, Block], *, damping: float, window: int) -> None:
        """Watch the layers of a model's blocks; the arguments are :class:`RunningEKFAC`'s."""
        super().__init__(blocks, damping=damping, window=window)
        self._tape = PassTape(self.blocks)

    def fill(self, strategy: Any, batches: Sequence[Batch]) -> None:
        """Take in examples by passes of their own, where a task begins and nothing of it has been seen."""
        for batch in batches:
            with evaluating(strategy.model):
                with record(self.blocks) as tape:
                    logits = forward_of(strategy, batch)
                (of_batch,) = cotangents(logits, "empirical", targets=batch[1])
                self.observe(tape.factors(logits, of_batch))

    def open(self) -> None:
        """Take note of forwards from now on."""
        self._tape.open()

    def close(self) -> None:
        """Take no note of further forwards."""
        self._tape.close()

    def read(self, strategy: Any) -> None:
        """Take in the batch that forward and backward have just gone through."""
        examples = len(strategy.mb_x)
        summed = getattr(strategy._criterion, "reduction", "mean") == "sum"
        self.observe(self._tape.factors(examples, 1.0 if summed else examples))
