"""The current task's Fisher out of a strategy's own passes: when it looks, and what it hands to the running EKFAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ong.curvature import Batch, Block, PassTape, RunningEKFAC, cotangents, evaluating, record
from ong.plugins.base import forward_of

__all__ = ["TrainingFisher"]


class TrainingFisher(RunningEKFAC):
    """A :class:`ong.curvature.RunningEKFAC` that reads training.

    Between :meth:`open` and :meth:`close` the strategy's forward is taken note of, and :meth:`read` takes in what the
    backward after it left. A loss that sums over examples says so by ``reduction="sum"``; any other counts as a mean.
    """

    def __init__(self, blocks: Mapping[str, Block], *, damping: float, window: int, alone: bool) -> None:
        """Watch the layers of a model's blocks.

        Args:
            blocks: the model's blocks.
            damping: λ > 0.
            window: examples that count.
            alone: whether nothing else works on gradients, so that they are the batch's if they once were.
        """
        super().__init__(blocks, damping=damping, window=window)
        self._tape = PassTape(self.blocks)
        self._alone, self._checked = alone, False
        self._share = 1.0  # of the gradient in the sum over the batch

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
        self._share = 1.0 if summed else 1 / examples
        self.observe(self._tape.factors(examples, 1 / self._share))

    def replace_gradients(self) -> None:
        """Replace the ``.grad`` fields by M⁻¹g, after :meth:`read`."""
        if self._alone and not self._checked:
            self._alone, self._checked = self.follows(self._share), True
        self.precondition_in_place(self._share if self._alone and self._tape.once else None)
