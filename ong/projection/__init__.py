"""What past tasks forbid: directions, their factored memory, projectors."""

from ong.projection.directions import DIRECTION_KINDS, DirectionKind, check_directions, collect_directions
from ong.projection.memory import DirectionMemory
from ong.projection.projectors import EuclideanProjection, GramSolver, MetricProjection
from ong.projection.rows import DenseRows, FactoredRows, NaturalRows, Rows

__all__ = [
    "DIRECTION_KINDS",
    "DenseRows",
    "DirectionKind",
    "DirectionMemory",
    "EuclideanProjection",
    "FactoredRows",
    "GramSolver",
    "MetricProjection",
    "NaturalRows",
    "Rows",
    "check_directions",
    "collect_directions",
]
