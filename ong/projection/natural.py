"""Natural gradients as rows: what a finished task leaves behind in its own metric."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ong.curvature import Metric
from ong.projection.rows import DenseRows, FactoredRows, NaturalRows, Rows

__all__ = ["kept_dense", "natural_rows"]

_ROTATION_COST = 16
"""A stored dense number costs about as much time as this many multiplications of a rotation (memory against flops)."""


def kept_dense(count: int, rows: Rows) -> bool:
    """Return whether multiplying natural gradients out costs less than rotating each vector."""
    return count * _ROTATION_COST < sum(rows.shape)


def natural_rows(rows: Mapping[str, Rows], metric: Metric) -> dict[str, Rows]:
    """Return M⁻¹G_m of each row, ``[rows, columns]`` a block, multiplied out where that is cheaper."""
    result: dict[str, Rows] = {}
    for name, part in rows.items():
        assert isinstance(part, FactoredRows | DenseRows)
        natural = NaturalRows(part.rotated(metric.blocks[name]), metric.blocks[name])
        everything = torch.arange(len(part), device=part.like.device)
        result[name] = DenseRows(natural.dense(everything)) if kept_dense(len(part), part) else natural
    return result
