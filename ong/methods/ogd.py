"""Orthogonal Gradient Descent, and what of a task's many gradients it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from ong.errors import UnknownNameError, UserError
from ong.methods.data import Examples
from ong.methods.directional import DirectionMethod, Storage
from ong.methods.room import Shapes, bytes_of
from ong.methods.statistics import BatchNorm
from ong.projection import CombinedRows, DirectionKind, DirectionMemory, Rows, pivoted_cholesky

__all__ = ["OGD"]

Keep = Literal["pivoted", "leading"]


class OGD(DirectionMethod):
    """v = (I − G(GᵀG)⁺Gᵀ) g with G the logit gradients of stored examples of the finished tasks.

    Guarantees Gᵀv = 0, so stored outputs stay still to first order, and gᵀv = ‖v‖² ≥ 0. A step costs two products with
    the factored memory, M · (rows + columns) numbers a layer.

    Of ``examples_per_task`` gradients R = [r_1 … r_m] of a task, ``directions_per_task`` directions are kept:

    * ``keep="pivoted"``: the most independent of them, by a pivoted Cholesky decomposition of RᵀR (all, where as many
      are taken as are kept);
    * ``keep="leading"``: principal directions R w_k, w_k the leading eigenvectors of RᵀR (PCA-OGD). They hold the
      largest share of the gradients' energy that so many directions can, and are kept as R's factors with the weights
      w_k.

    Sources: Farajtabar, Azizan, Mott, Li, "Orthogonal gradient descent for continual learning", arXiv 1910.07104,
    Algorithm 1; Doan, Abbana Bennani, Mazoure, Rabusseau, Alquier, "A theoretical analysis of catastrophic forgetting
    through the NTK overlap matrix", arXiv 2010.04003, Algorithm 1 (PCA-OGD).

    Attributes:
        memory: G.
    """

    keeps_outputs = True

    def __init__(
        self,
        *,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        examples_per_task: int | None = None,
        keep: Keep = "pivoted",
        max_directions: int | None = None,
        max_bytes: int | None = None,
        storage: Storage = "full",
        batch_norm: BatchNorm = "freeze",
        seed: int = 0,
    ) -> None:
        """Choose what is stored, and how much of it.

        Args:
            directions: kind of direction, see :func:`ong.projection.collect_directions`.
            directions_per_task: directions kept of each finished task (with ``all``, one an output and example where no
                ``examples_per_task`` is given).
            examples_per_task: examples whose gradients they are chosen from; None takes as many as are kept.
            keep: ``"pivoted"`` or ``"leading"``, as above.
            max_directions: most directions kept over all tasks; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise; not with ``"leading"``.
            storage: ``"full"``, or ``"half"`` for directions rounded to 11 bits and kept in float16, see
                :class:`ong.methods.directional.DirectionMethod`.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: which examples are drawn.

        Raises:
            UserError: an unknown choice, or a number out of range.
        """
        super().__init__(
            directions=directions,
            directions_per_task=directions_per_task,
            max_directions=max_directions,
            max_bytes=max_bytes,
            storage=storage,
            batch_norm=batch_norm,
            seed=seed,
        )
        if keep not in ("pivoted", "leading"):
            raise UnknownNameError("choice of keep", keep, ("pivoted", "leading"))
        if examples_per_task is not None and examples_per_task < directions_per_task and directions != "all":
            raise UserError(
                f"examples_per_task must be at least directions_per_task, got {examples_per_task} and "
                f"{directions_per_task}"
            )
        if keep == "leading" and max_bytes is not None:
            raise UserError(
                "keep='leading' keeps the factors of all examples_per_task gradients, which max_bytes cannot cut; "
                "lower examples_per_task, or use keep='pivoted'"
            )
        self.examples_per_task, self.keep = examples_per_task, keep

    def _left_by_a_task(
        self, sample: Mapping[str, Rows], an_example: int, most: int, shapes: Shapes
    ) -> tuple[int, int]:
        if self.examples_per_task is None:
            return super()._left_by_a_task(sample, an_example, most, shapes)
        taken = min(self.examples_per_task, most) * an_example
        count = min(self.directions_per_task, taken)
        if self.keep == "pivoted" or count == taken:
            return count, bytes_of(sample, count)
        weights = sum(taken * count * rows.like.element_size() for rows in sample.values())
        return count, bytes_of(sample, taken) + weights

    def _end(self, examples: Examples) -> None:
        if self.examples_per_task is None:
            self._remember(examples)
            return
        found = DirectionMemory()
        for batch in examples.draw(self.examples_per_task, self._choice):
            found.extend(self._collect(batch, examples), self.blocks)
        self.memory.extend(_chosen(found, self.directions_per_task, self.keep).rows, self.blocks)
        self._bound()


def _chosen(memory: DirectionMemory, count: int, keep: Keep) -> DirectionMemory:
    """Return ``count`` directions of a task's, or all where there are no more."""
    if len(memory) <= count:
        return memory
    if keep == "pivoted":
        return memory.select(pivoted_cholesky(memory.gram(), count).order)
    values, vectors = torch.linalg.eigh(memory.gram())
    leading = vectors[:, -count:].flip(1)[:, values[-count:].flip(0) > 0]
    return DirectionMemory({name: CombinedRows(rows, leading.to(rows.like)) for name, rows in memory.rows.items()})
