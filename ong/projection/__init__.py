"""What past tasks forbid: directions, their factored memory, projectors."""

from ong.projection.bounds import Bounds
from ong.projection.derived import CombinedRows, ImageRows
from ong.projection.directions import (
    DIRECTION_KINDS,
    DirectionKind,
    check_directions,
    collect_directions,
    direction_cotangents,
    rows_of,
)
from ong.projection.gram import GramSolver, PivotedCholesky, pivoted_cholesky
from ong.projection.halves import as_halves, from_halves, rounded, rounded_rows
from ong.projection.lookups import LookupRows
from ong.projection.memory import DirectionMemory
from ong.projection.patches import PatchRows, input_shapes
from ong.projection.projectors import EuclideanProjection, MetricProjection
from ong.projection.recent import Recent
from ong.projection.rows import DenseRows, FactoredRows, Rows
from ong.projection.working import WORKING_BYTES, matrix_bytes, worked_with

__all__ = [
    "DIRECTION_KINDS",
    "WORKING_BYTES",
    "Bounds",
    "CombinedRows",
    "DenseRows",
    "DirectionKind",
    "DirectionMemory",
    "EuclideanProjection",
    "FactoredRows",
    "GramSolver",
    "ImageRows",
    "LookupRows",
    "MetricProjection",
    "PatchRows",
    "PivotedCholesky",
    "Recent",
    "Rows",
    "as_halves",
    "check_directions",
    "collect_directions",
    "direction_cotangents",
    "from_halves",
    "input_shapes",
    "matrix_bytes",
    "pivoted_cholesky",
    "rounded",
    "rounded_rows",
    "rows_of",
    "worked_with",
]
