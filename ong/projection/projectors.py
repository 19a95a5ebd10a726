"""Updates that leave what past tasks forbid alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ong.curvature import Metric, Vector
from ong.projection.memory import DirectionMemory

__all__ = ["EuclideanProjection", "GramSolver", "MetricProjection"]

RANK_TOLERANCE = 1e-6


class GramSolver:
    """K⁺ of a Gram matrix of unit-normalised directions, with a rank cut.

    K is scaled to a unit diagonal, so that the cut does not depend on how long single directions are; eigenvalues below
    ``1e-6`` of the largest are dropped. (Gram-Schmidt in one pass loses orthogonality entirely on such directions.)

    Attributes:
        rank: independent directions kept.
        condition: largest over smallest eigenvalue kept.
    """

    def __init__(self, gram: Tensor) -> None:
        """Factor a symmetric ``[M, M]`` float64 matrix."""
        diagonal = gram.diagonal()
        lengths = torch.where(diagonal > 0, diagonal.clamp_min(torch.finfo(gram.dtype).tiny).rsqrt(), 0.0)
        values, vectors = torch.linalg.eigh(lengths[:, None] * gram * lengths)
        kept = values > RANK_TOLERANCE * values[-1].clamp_min(torch.finfo(gram.dtype).tiny)
        self.rank = int(kept.sum())
        self.condition = float(values[kept][-1] / values[kept][0]) if self.rank else 1.0
        half = lengths[:, None] * vectors[:, kept] * values[kept].rsqrt()
        self.inverse = half @ half.T

    def solve(self, right: Tensor) -> Tensor:
        """Return K⁺ b for b ``[M]``, in b's dtype, computed in float64."""
        return (self.inverse @ right.double()).to(right)


class EuclideanProjection:
    """v = (I − G (GᵀG)⁺ Gᵀ) g, the orthogonal projection off span G (OGD: Farajtabar et al., arXiv 1910.07104).

    Then Gᵀv = 0 and gᵀv = ‖v‖² ≥ 0.
    """

    def __init__(self, memory: DirectionMemory) -> None:
        """Prepare the projection off a memory's directions."""
        self.memory = memory
        self.solver = GramSolver(memory.gram()) if memory.count else None

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return the projected vector."""
        if self.solver is None:
            return dict(vector)
        shadow = self.memory.combine(self.solver.solve(self.memory.dot(vector)))
        return {name: part - shadow[name] if name in shadow else part for name, part in vector.items()}

    def captured(self, vector: Mapping[str, Tensor]) -> float:
        """Return ‖Q_Gᵀv‖/‖v‖, the share of a vector that lies in span G (the leak of an update)."""
        length = torch.stack([torch.linalg.vector_norm(part) for part in vector.values()]).norm()
        if self.solver is None or not length > 0:
            return 0.0
        against = self.memory.dot(vector).double()
        square = torch.dot(against, self.solver.inverse @ against).clamp_min(0)
        return float(square.sqrt() / length)


class MetricProjection:
    """v = M⁻¹( g − G (GᵀM⁻¹G)⁺ GᵀM⁻¹ g ), steepest descent in the metric M under Gᵀv = 0.

    v is the argmin of −gᵀv + ½ vᵀMv subject to Gᵀv = 0, so gᵀv = vᵀMv ≥ 0. Everything happens in M's eigenbasis, where
    M⁻¹ is an elementwise scale: one rotation in, one out.
    """

    def __init__(self, memory: DirectionMemory, metric: Metric) -> None:
        """Rotate the directions into the metric's basis and factor GᵀM⁻¹G."""
        self.metric = metric
        self.memory = memory.rotated(metric)
        self.solver = GramSolver(self.memory.gram_in(metric)) if memory.count else None

    def __call__(self, vector: Mapping[str, Tensor]) -> Vector:
        """Return the update."""
        blocks = self.metric.blocks
        rotated = {name: block.rotate(vector[name]) for name, block in blocks.items()}
        update = {name: block.scale * rotated[name] for name, block in blocks.items()}
        if self.solver is not None:
            shadow = self.memory.combine(self.solver.solve(self.memory.dot(update)))
            for name, part in shadow.items():
                update[name] = blocks[name].scale * (rotated[name] - part)
        return {name: block.rotate_back(update[name]) for name, block in blocks.items()}
