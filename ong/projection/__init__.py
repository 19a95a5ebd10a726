"""What past tasks forbid: directions, their factored memory, projectors."""

from ong.projection.bounds import Bounds
from ong.projection.directions import DIRECTION_KINDS, DirectionKind, check_directions, collect_directions
from ong.projection.gram import GramSolver, PivotedCholesky, pivoted_cholesky
from ong.projection.memory import DirectionMemory
from ong.projection.natural import kept_dense, natural_rows
from ong.projection.projectors import EuclideanProjection, MetricProjection
from ong.projection.rows import DenseRows, FactoredRows, NaturalRows, Rows

__all__ = [
    "DIRECTION_KINDS",
    "Bounds",
    "DenseRows",
    "DirectionKind",
    "DirectionMemory",
    "EuclideanProjection",
    "FactoredRows",
    "GramSolver",
    "MetricProjection",
    "NaturalRows",
    "PivotedCholesky",
    "Rows",
    "check_directions",
    "collect_directions",
    "kept_dense",
    "natural_rows",
    "pivoted_cholesky",
]
