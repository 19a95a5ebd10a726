"""Eigenpairs of covariances."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["eigenpairs"]

_WORTH_SPLITTING = 128  # columns
_ROUNDINGS = 100


def eigenpairs(covariance: Tensor, rounding: float) -> tuple[Tensor, Tensor]:
    """Return eigenvalues of a covariance and eigenvectors in columns, by a smaller problem where columns are constant.

    The largest eigenvalues come last.

    Dead pixels, dead units and the 1 of the bias are constant columns, multiples of one another: k of them have k − 1
    eigenvectors of value 0 among themselves, and what is left has k − 1 columns less. Columns count as multiples of the
    last one where their covariances say so to a hundred roundings of both columns' lengths, as sums of many round more
    than once.

    Args:
        covariance: symmetric, ``[c, c]``.
        rounding: relative, of the numbers that it was summed from.
    """
    last = covariance[-1]
    if len(covariance) < _WORTH_SPLITTING or not last[-1] > 0:
        values, vectors = torch.linalg.eigh(covariance)
        return values, vectors
    left = covariance - torch.outer(last, last / last[-1])  # of a multiple of the last column nothing is left
    scale = covariance.diagonal().clamp_min(0).sqrt()
    alike = (left.abs() <= _ROUNDINGS * rounding * torch.outer(scale, scale)).all(0)
    alike[-1] = True
    together, others = alike.nonzero().squeeze(1), (~alike).nonzero().squeeze(1)
    reflect = _to_last(last[together])  # its last column is the direction in which those columns vary together
    across = reflect[:, -1] @ covariance[together]
    rest = torch.cat([covariance[others][:, others], across[others][:, None]], 1)
    small = torch.cat([rest, torch.cat([across[others], (across[together] @ reflect[:, -1])[None]])[None]])
    values, vectors = torch.linalg.eigh(small)
    basis = torch.zeros_like(covariance)
    zeros = len(together) - 1
    basis[together, :zeros] = reflect[:, :-1]
    basis[others, zeros:] = vectors[:-1]
    basis[together, zeros:] = torch.outer(reflect[:, -1], vectors[-1])
    return torch.cat([values.new_zeros(zeros), values]), basis


def _to_last(vector: Tensor) -> Tensor:
    """Return an orthogonal symmetric matrix (a Householder reflection) whose last column is the vector's direction."""
    unit = vector / vector.norm()
    mirror = unit.clone()
    mirror[-1] += 1 if unit[-1] >= 0 else -1
    reflection = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    result: Tensor = reflection - torch.outer(mirror, mirror) * (2 / mirror.square().sum())
    return result
