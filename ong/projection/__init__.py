"""What past tasks forbid: directions, their factored memory, projectors."""

from ong.projection.bounds import Bounds
from ong.projection.derived import CombinedRows, ImageRows
from ong.projection.directions import (
    DIRECTION_KINDS,
    DirectionKind,
    check_directions,
    collect_directions,
    direction_cotangents,
)
from ong.projection.gram import GramSolver, PivotedCholesky, pivoted_cholesky
from ong.projection.memory import DirectionMemory
from ong.projection.projectors import EuclideanProjection, MetricProjection
from ong.projection.recent import Recent
from ong.projection.rows import DenseRows, FactoredRows, Rows

__all__ = [
    "DIRECTION_KINDS",
    "Bounds",
    "CombinedRows",
    "DenseRows",
    "DirectionKind",
    "DirectionMemory",
    "EuclideanProjection",
    "FactoredRows",
    "GramSolver",
    "ImageRows",
    "MetricProjection",
    "PivotedCholesky",
    "Recent",
    "Rows",
    "check_directions",
    "collect_directions",
    "direction_cotangents",
    "pivoted_cholesky",
]
