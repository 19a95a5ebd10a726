"""Eigenpairs of covariances: all of them, or the leading ones from those of slightly older data."""

from __future__ import annotations

import scipy.linalg
import torch
from torch import Tensor

from ong.threads import one_blas_thread

__all__ = ["eigenbasis", "eigenpairs", "leading_eigenpairs"]

_SPARE = 1.25  # times as many columns as were kept are iterated, so that those kept converge fast
_FEWEST = 16
_WORTH_SPLITTING = 128  # columns
_ROUNDINGS = 100
_COLD, _WARM = 3, 1  # iterations from random columns, and from an earlier basis


def eigenpairs(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues, rising, and orthonormal eigenvectors in columns.

    On a CPU by scipy's LAPACK, at less than half of torch's time.
    """
    if symmetric.device.type != "cpu":
        values, vectors = torch.linalg.eigh(symmetric)
        return values, vectors
    with one_blas_thread():
        found = scipy.linalg.eigh(symmetric.numpy(), driver="evd")
    return torch.from_numpy(found[0]), torch.from_numpy(found[1]).contiguous()


def eigenbasis(covariance: Tensor, rounding: float) -> Tensor:
    """Return orthonormal eigenvectors of a covariance in columns, by a smaller problem where columns are constant.

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
        return eigenpairs(covariance)[1]
    left = covariance - torch.outer(last, last / last[-1])  # of a multiple of the last column nothing is left
    scale = covariance.diagonal().clamp_min(0).sqrt()
    alike = (left.abs() <= _ROUNDINGS * rounding * torch.outer(scale, scale)).all(0)
    alike[-1] = True
    together, others = alike.nonzero().squeeze(1), (~alike).nonzero().squeeze(1)
    reflect = _to_last(last[together])  # its last column is the direction in which those columns vary together
    across = reflect[:, -1] @ covariance[together]
    rest = torch.cat([covariance[others][:, others], across[others][:, None]], 1)
    small = torch.cat([rest, torch.cat([across[others], (across[together] @ reflect[:, -1])[None]])[None]])
    vectors = eigenpairs(small)[1]
    basis = torch.zeros_like(covariance)
    zeros = len(together) - 1
    basis[together, :zeros] = reflect[:, :-1]
    basis[others, zeros:] = vectors[:-1]
    basis[together, zeros:] = torch.outer(reflect[:, -1], vectors[-1])
    return basis


def _to_last(vector: Tensor) -> Tensor:
    """Return an orthogonal symmetric matrix (a Householder reflection) whose last column is the vector's direction."""
    unit = vector / vector.norm()
    mirror = unit.clone()
    mirror[-1] += 1 if unit[-1] >= 0 else -1
    reflection = torch.eye(len(unit), dtype=unit.dtype, device=unit.device)
    result: Tensor = reflection - torch.outer(mirror, mirror) * (2 / mirror.square().sum())
    return result


def leading_eigenpairs(rows: Tensor, threshold: float, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the eigenpairs of XᵀX/n whose values pass a threshold, by subspace iteration.

    Q ← qr(XᵀX Q), then the Rayleigh–Ritz pairs of Q. One iteration from the basis of slightly older data costs 4 n·c·r
    multiplications and the QR of ``[c, r]``, where the eigendecomposition takes 2 n·c² and about 10 c³. The values are
    those of the basis returned, Σ(Xu)²/n, from below; where most of them pass, all are found by eigendecomposition.

    Source: Halko, Martinsson, Tropp, "Finding structure with randomness", arXiv 0909.4061, algorithm 4.4.

    Args:
        rows: X, ``[n, c]``.
        threshold: the smallest eigenvalue that is wanted.
        start: orthonormal columns ``[c, k]`` to start from; random ones by default.

    Returns:
        Eigenvalues ``[r]``, falling, and orthonormal eigenvectors ``[c, r]``; r is at least 1.
    """
    columns = rows.shape[1]
    count = max(_FEWEST, int(_SPARE * start.shape[1])) if start is not None else 4 * _FEWEST
    q, iterations = start, _COLD if start is None else _WARM
    while count < columns // 2:
        q = _widened(q, rows, count)
        for _ in range(iterations):
            q = torch.linalg.qr(rows.T @ (rows @ q)).Q
        moved = rows @ q
        values, turn = eigenpairs((moved.T @ moved).double() / len(rows))
        if values[0] <= threshold:
            return _passing(values, q @ turn.to(q), threshold)
        count, iterations = 2 * count, _COLD
    covariance = (rows.T @ rows).double() / len(rows)
    values, vectors = eigenpairs(covariance)
    return _passing(values, vectors.to(rows), threshold)


def _widened(q: Tensor | None, rows: Tensor, count: int) -> Tensor:
    """Return the columns with random ones beside them, ``count`` in all."""
    known = rows.new_zeros(rows.shape[1], 0) if q is None else q[:, :count]
    generator = torch.Generator(rows.device).manual_seed(0)
    more = torch.randn(rows.shape[1], count - known.shape[1], generator=generator, dtype=rows.dtype, device=rows.device)
    return torch.cat([known, more], 1)


def _passing(values: Tensor, vectors: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    kept = max(1, int((values > threshold).sum()))
    return values.flip(0)[:kept], vectors.flip(1)[:, :kept].contiguous()
