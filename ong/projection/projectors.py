"""Updates that leave what past tasks forbid alone.

A vector may lack blocks: a layer that took no part in the step (another task's head, a frozen layer) stays where it is,
and G is restricted to the blocks that move, so that Gᵀv = 0 holds for the step that is really taken.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ong.curvature import Metric, Vector
from ong.projection.gram import GramSolver
from ong.projection.memory import DirectionMemory

__all__ = ["EuclideanProjection", "MetricProjection"]


class EuclideanProjection:
    """v = (I − G (GᵀG)⁺ Gᵀ) g, the orthogonal projection off span G (OGD: Farajtabar et al., arXiv 1910.07104).

    Then Gᵀv = 0 and gᵀv = ‖v‖² ≥ 0.
    """

    def __init__(self, memory: DirectionMemory, solver: GramSolver | None = None) -> None:
        """Prepare the projection off a memory's directions.

        Args:
            memory: G.
            solver: (GᵀG)⁺ where it is known, as it is of the same directions in another orthonormal basis.
        """
        self.memory = memory
        self.solver = GramSolver(memory.gram()) if solver is None and memory.count else solver
        self._restricted: dict[frozenset[str], EuclideanProjection] = {}

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return the projected vector."""
        if not self.memory.rows.keys() <= vector.keys():
            return self._off(vector)(vector)
        if self.solver is None:
            return dict(vector)
        shadow = self.memory.combine(self.solver.solve(self.memory.dot(vector)))
        return {name: part - shadow[name] if name in shadow else part for name, part in vector.items()}

    def coefficients(self, vector: Mapping[str, Tensor], products: Tensor) -> Tensor:
        """Return c = (GᵀG)⁺Gᵀg, ``[M]``; the projected vector is g − G c.

        Args:
            vector: g over some of the blocks that directions touch.
            products: Gᵀg of all other blocks, ``[M]``.
        """
        assert self.solver is not None
        for name, part in vector.items():
            products = products + self.memory.rows[name].dot(part)
        return self.solver.solve(products)

    def captured(self, vector: Mapping[str, Tensor]) -> float:
        """Return ‖Q_Gᵀv‖/‖v‖, the share of a vector that lies in span G (the leak of an update)."""
        if not self.memory.rows.keys() <= vector.keys():
            return self._off(vector).captured(vector)
        length = torch.stack([torch.linalg.vector_norm(part) for part in vector.values()]).norm()
        if self.solver is None or not length > 0:
            return 0.0
        against = self.memory.dot(vector).double()
        square = torch.dot(against, self.solver.inverse @ against).clamp_min(0)
        return float(square.sqrt() / length)

    def _off(self, vector: Mapping[str, Tensor]) -> EuclideanProjection:
        names = frozenset(vector)
        if names not in self._restricted:
            self._restricted[names] = EuclideanProjection(self.memory.restricted(names))
        return self._restricted[names]


class MetricProjection:
    """v = M⁻¹( g − G (GᵀM⁻¹G)⁺ GᵀM⁻¹ g ), steepest descent in the metric M under Gᵀv = 0.

    v is the argmin of −gᵀv + ½ vᵀMv subject to Gᵀv = 0, so gᵀv = vᵀMv ≥ 0. Everything happens in M's eigenbasis, where
    M⁻¹ is an elementwise scale: one rotation in, one out.
    """

    def __init__(self, memory: DirectionMemory, metric: Metric, held: Collection[str] = ()) -> None:
        """Rotate the directions into the metric's basis.

        Args:
            memory: G, in the original coordinates.
            metric: M.
            held: blocks whose vectors will come, and are wanted, in the eigenbasis.
        """
        self.metric = metric
        self.held = frozenset(held)
        self.memory = memory.rotated(metric)
        self._restricted: dict[frozenset[str], DirectionMemory] = {}
        self._solvers: dict[frozenset[str], GramSolver] = {}

    @property
    def solver(self) -> GramSolver | None:
        """(GᵀM⁻¹G)⁺ over all blocks, or None where nothing is stored."""
        return self._solver(frozenset(self.memory.rows)) if self.memory.count else None

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return the update."""
        return self._step(vector)[0]

    def beside(self, vector: Mapping[str, Tensor], products: Tensor) -> tuple[Vector, Tensor]:
        """Update blocks whose others are updated elsewhere.

        Args:
            vector: g over some blocks.
            products: GᵀM⁻¹g of all other blocks, ``[M]``.

        Returns:
            The update of the blocks, and c = (GᵀM⁻¹G)⁺GᵀM⁻¹g.
        """
        update, step = self._step(vector, products)
        assert step is not None
        return update, step

    def _step(self, vector: Mapping[str, Tensor], products: Tensor | None = None) -> tuple[Vector, Tensor | None]:
        blocks = {name: block for name, block in self.metric.blocks.items() if name in vector}
        update = {
            name: block.scale * (vector[name] if name in self.held else block.rotate(vector[name]))
            for name, block in blocks.items()
        }
        moving = frozenset(self.memory.rows.keys() & blocks.keys())
        step = None
        if moving or products is not None:
            memory = self._part(moving)
            solver = self._solver(moving if products is None else frozenset(self.memory.rows))
            step = solver.solve(memory.dot(update, products))
            for name, part in memory.combine(step).items():
                update[name].addcmul_(blocks[name].scale, part, value=-1)
        return {
            name: update[name] if name in self.held else block.rotate_back(update[name])
            for name, block in blocks.items()
        }, step

    def _part(self, names: frozenset[str]) -> DirectionMemory:
        if names not in self._restricted:
            self._restricted[names] = self.memory.restricted(names)
        return self._restricted[names]

    def _solver(self, names: frozenset[str]) -> GramSolver:
        if names not in self._solvers:
            self._solvers[names] = GramSolver(self._part(names).gram_in(self.metric))
        return self._solvers[names]
