"""Updates that leave what past tasks forbid alone.

A vector may lack blocks: a layer that took no part in the step (another task's head, a frozen layer) stays where it is,
and G is restricted to the blocks that move, so that Gᵀv = 0 holds for the step that is really taken.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ong.curvature import Metric, Vector, double
from ong.projection.gram import GramSolver
from ong.projection.images import gram_of, image_of
from ong.projection.memory import DirectionMemory
from ong.projection.recent import Recent
from ong.waiting import waiting

__all__ = ["EuclideanProjection", "MetricProjection"]


class EuclideanProjection:
    """v = (I − G (GᵀG)⁺ Gᵀ) g, the orthogonal projection off span G (OGD: Farajtabar et al., arXiv 1910.07104).

    Then Gᵀv = 0 and gᵀv = ‖v‖² ≥ 0.
    """

    def __init__(self, memory: DirectionMemory, worked: DirectionMemory | None = None) -> None:
        """Prepare the projection off a memory's directions.

        Args:
            memory: G, as it is kept.
            worked: G in the form that products are taken with (:func:`ong.projection.worked_with`); the memory's own by
                default.
        """
        self.memory = memory
        self._worked = memory if worked is None else worked
        self.solver = GramSolver(memory.gram()) if memory.count else None
        self._restricted: Recent[EuclideanProjection] = Recent()

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return the projected vector."""
        if not self.memory.rows.keys() <= vector.keys():
            return self._off(vector)(vector)
        if self.solver is None:
            return dict(vector)
        shadow = self._worked.combine(self.solver.solve(self._worked.dot(vector)))
        return {name: part - shadow[name] if name in shadow else part for name, part in vector.items()}

    def captured(self, vector: Mapping[str, Tensor]) -> float:
        """Return ‖Q_Gᵀv‖/‖v‖, the share of a vector that lies in span G (the leak of an update)."""
        if not self.memory.rows.keys() <= vector.keys():
            return self._off(vector).captured(vector)
        length = torch.stack([torch.linalg.vector_norm(part) for part in vector.values()]).norm()
        if self.solver is None or not length > 0:
            return 0.0
        against = double(self._worked.dot(vector))
        square = torch.dot(against, self.solver.inverse @ against).clamp_min(0)
        return float(square.sqrt()) / float(length)

    def _off(self, vector: Mapping[str, Tensor]) -> EuclideanProjection:
        names = frozenset(vector)
        return self._restricted.get(
            names, lambda: EuclideanProjection(self.memory.restricted(names), self._worked.restricted(names))
        )


class MetricProjection:
    """v = M⁻¹( g − G (GᵀM⁻¹G)⁺ GᵀM⁻¹ g ), steepest descent in the metric M under Gᵀv = 0.

    v is the argmin of −gᵀv + ½ vᵀMv subject to Gᵀv = 0, so gᵀv = vᵀMv ≥ 0.
    """

    def __init__(self, memory: DirectionMemory, metric: Metric, worked: DirectionMemory | None = None) -> None:
        """Prepare the projection.

        Args:
            memory: G, as it is kept.
            metric: M.
            worked: as for :class:`EuclideanProjection`.
        """
        self.memory = memory.restricted(metric.inverse)
        self.metric = metric
        form = memory if worked is None else worked
        self._images = {
            name: image_of(rows, metric.inverse[name], form.rows[name]) for name, rows in self.memory.rows.items()
        }
        self._solvers: Recent[GramSolver] = Recent()

    @property
    def solver(self) -> GramSolver | None:
        """(GᵀM⁻¹G)⁺ over all blocks, or None where nothing is stored."""
        return self._solver(frozenset(self._images)) if self.memory.count else None

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return the update."""
        images = {name: image for name, image in self._images.items() if name in vector}
        update = self.metric.precondition({name: part for name, part in vector.items() if name not in images})
        if images:
            found = {name: image.dot(vector[name]) for name, image in images.items()}
            against = torch.stack([products for products, _ in found.values()]).sum(0)
            coefficients = self._solver(frozenset(images)).solve(against)
            for name, image in images.items():
                update[name] = image.off(vector[name], found[name][1], coefficients)
        return update

    def _solver(self, names: frozenset[str]) -> GramSolver:
        images = [image for name, image in self._images.items() if name in names]
        return self._solvers.get(names, lambda: GramSolver(gram_of(waiting(images, "  Gram"))))
