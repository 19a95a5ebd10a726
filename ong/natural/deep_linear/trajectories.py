"""What theory says of the path: flow, rate of discrete steps, recursion of square nets, blow-up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ong.errors import UserError

__all__ = [
    "blow_up_time",
    "discrete_rate",
    "eigenvalue_recursion",
    "flow_excess_ratio",
    "flow_product",
    "square_recursion",
    "teacher_eigenvalues",
]


def flow_product(start: Tensor, teacher: Tensor, time: float) -> Tensor:
    """Return W(t) = W* + (W_0 − W*) e^{−t}, the exact natural-gradient flow where J has full row rank.

    Args:
        start: W_0, n_L × n_0.
        teacher: W*, n_L × n_0.
        time: t = number of steps × α, as α → 0.

    Source: Bernacchia, Lengyel, Hennequin, NeurIPS 2018, section 3.
    """
    return teacher + (start - teacher) * math.exp(-time)


def flow_excess_ratio(time: float) -> float:
    """Return e^{−2t}, the flow's excess loss over that at its start, at any depth and conditioning."""
    return math.exp(-2.0 * time)


def discrete_rate(alpha: float) -> float:
    """Return (1 − α)², the ratio of successive excess losses under steps of size α near the optimum."""
    return (1.0 - alpha) ** 2


def square_recursion(product: Tensor, teacher: Tensor, depth: int, alpha: float) -> Tensor:
    """Return W' = ((1 − α/L) I + (α/L) W* W⁻¹)^L W, one step of the paper's form when all layers are n × n.

    Args:
        product: W, n × n and invertible.
        teacher: W*, n × n.
        depth: L.
        alpha: α, the size of the step.

    Raises:
        UserError: the matrices are not square and of one size.
    """
    _check_square(product, teacher)
    share = alpha / depth
    ratio = torch.linalg.solve(product, teacher, left=False)
    identity = torch.eye(product.shape[0], dtype=product.dtype, device=product.device)
    factor: Tensor = torch.linalg.matrix_power((1.0 - share) * identity + share * ratio, depth)
    return factor @ product


def eigenvalue_recursion(ratio: Tensor, depth: int, alpha: float) -> Tensor:
    """Return r' = r / (1 + (α/L)(r − 1))^L, the next value of each eigenvalue r of W* W⁻¹.

    The spectrum of :func:`square_recursion`. r = 1 is its fixed point with slope 1 − α: stable for 0 < α < 2,
    quadratically attracting at α = 1. For even L the sign of a real r never changes, so a negative one never
    reaches 1.

    Args:
        ratio: eigenvalues r, real or complex, any shape.
        depth: L.
        alpha: α, the size of the step.
    """
    return ratio / (1.0 + (alpha / depth) * (ratio - 1.0)) ** depth


def teacher_eigenvalues(start: Tensor, teacher: Tensor) -> Tensor:
    """Return the eigenvalues (complex, n of them) of W* W_0⁻¹.

    Raises:
        UserError: the matrices are not square and of one size.
    """
    _check_square(start, teacher)
    eigenvalues: Tensor = torch.linalg.eigvals(torch.linalg.solve(start, teacher, left=False))
    return eigenvalues


def blow_up_time(start: Tensor, teacher: Tensor) -> float:
    """Return when the paper's flow of a square network meets det W = 0, and its weights' speed infinity.

    det W(t) = 0 iff e^{−t} = r/(r − 1) for a negative real eigenvalue r of W* W_0⁻¹, so t = log(1 + 1/|r|);
    the first is that of the largest |r|. LAPACK returns the real eigenvalues of a real matrix with an
    imaginary part of exactly 0, so they need no tolerance.

    Args:
        start: W_0, n × n and invertible.
        teacher: W*, n × n.

    Returns:
        The time, in units where the flow is e^{−t}; infinity when the flow reaches the teacher.
    """
    ratios = teacher_eigenvalues(start, teacher)
    negative = ratios.real[(ratios.imag == 0) & (ratios.real < 0)]
    if negative.numel() == 0:
        return math.inf
    return math.log1p(1.0 / float(negative.abs().max()))


def _check_square(product: Tensor, teacher: Tensor) -> None:
    shapes = tuple(product.shape), tuple(teacher.shape)
    if product.dim() != 2 or shapes[0] != shapes[1] or shapes[0][0] != shapes[0][1]:
        raise UserError(f"square matrices of one size are needed; got shapes {shapes[0]} and {shapes[1]}")
