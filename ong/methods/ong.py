"""Orthogonal Natural Gradient as published."""

from __future__ import annotations

from collections.abc import Mapping

from ong.curvature import EKFAC
from ong.methods.data import Examples
from ong.methods.ong_v1 import ONGv1
from ong.methods.room import Shapes
from ong.projection import ImageRows, Rows

__all__ = ["ONG"]


class ONG(ONGv1):
    """v = (I − QQᵀ) λ(F_c+λ)⁻¹ g, Q = orth[F_k⁻¹g_k]: the natural gradient, off the *natural* gradients of old tasks.

    Each stored gradient g_k is kept as λ(F_k+λ)⁻¹g_k in the metric F_k of the task that left it. Neither Gᵀv = 0 nor
    gᵀv ≥ 0 is guaranteed: old outputs move at first order, and the step may ascend.

    Source: Yadav, Mendoza, Korrapati, "Orthogonal Natural Gradient", arXiv 2508.17169 v3, Algorithm 1. The options are
    :class:`ONGv1`'s.

    Attributes:
        memory: the natural gradients.
        current: the metric of the current task.
    """

    keeps_outputs = False

    def _end(self, examples: Examples) -> None:
        fisher = self.current.options.add_to(self.current.options.empty(), self, examples)
        self._remember(examples, kept_as=lambda rows: self._natural(rows, fisher))

    def _left_by_a_task(
        self, sample: Mapping[str, Rows], an_example: int, most: int, shapes: Shapes
    ) -> tuple[int, int]:
        count, size = super()._left_by_a_task(sample, an_example, most, shapes)
        return count, size + shapes.ekfac(self.current.options.rank)

    def _natural(self, rows: Mapping[str, Rows], fisher: EKFAC) -> dict[str, Rows]:
        return {
            name: ImageRows(part, fisher.block_like(name, self.blocks[name]), self.current.damping)
            for name, part in rows.items()
        }
