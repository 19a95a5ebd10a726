"""The exact natural gradient of deep linear networks in three closed forms.

Every function returns ΔW_i for a rate of 1, so that ``network.moved(step, alpha)`` is one step of size α. All
three work in whitened coordinates (see :mod:`ong.natural.deep_linear.whitening`), where the loss is ½‖Ẽ‖² and
a step solves F v = −∇ exactly iff J̃ v = −(the projection of Ẽ on the range of J̃). They are unchanged when Σ
is scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ong.errors import UserError
from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.problem import LinearProblem
from ong.natural.deep_linear.whitening import WhitenedMaps, nested_basis, whiten

__all__ = ["MINIMUM_NORM_LIMIT", "any_width_step", "layer_counts", "minimum_norm_step", "paper_step"]

MINIMUM_NORM_LIMIT = 2500
"""The most unknowns n_0 · n_L of the minimum-norm form (a dense symmetric eigenproblem of that size)."""


def paper_step(network: DeepLinearNetwork, problem: LinearProblem, *, damping: float = 0.0) -> list[Tensor]:
    """Return ΔW_i = −(1/L) Λ̃_i⁺ ∇_i Λ_i⁺ with Λ_i = A_i C A_iᵀ and Λ̃_i = B_iᵀΣ⁻¹B_i, the paper's form.

    It is K-FAC with the true Fisher, divided by L, computed as −(1/L) B̃_i⁺ Ẽ Ã_i⁺ so that condition numbers
    are not squared. For generic weights it solves F v = −∇ exactly iff every hidden width is at least
    max(rank C, n_L); a rank-deficient C is allowed (pseudo-inverses take the place of inverses). It is not
    the solution of least norm when L ≥ 2, and with square layers it may be unbounded in time (see
    :func:`blow_up_time`).

    Args:
        network: the weights.
        problem: C, W*, Σ.
        damping: λ ≥ 0; inverts Λ + √λ I instead, as the authors do online. Inexact unless 0.

    Returns:
        One matrix n_i × n_{i−1} a layer.

    Source: Bernacchia, Lengyel, Hennequin, NeurIPS 2018, theorem 1 and equation 10.
    """
    maps = whiten(network, problem)
    return _spread(maps, maps.error / network.depth, damping)


def any_width_step(network: DeepLinearNetwork, problem: LinearProblem, *, damping: float = 0.0) -> list[Tensor]:
    """Return ΔW_i = −B̃_i⁺ X Ã_i⁺ with X_ab = Ẽ_ab / c_ab, exact for any widths, bottlenecks too.

    Let P_i and Q_i project on the column space of B̃_i and the row space of Ã_i. Both families are nested, so
    in bases adapted to them X ↦ Σ_i P_i X Q_i is diagonal, with the whole numbers c_ab = #{i : a < rank P_i,
    b < rank Q_i}; X_ab = 0 where c_ab = 0, an error that no weight can correct at first order. Solves F v =
    −∇ for any widths, weights and rank of C. Where hidden widths are at least max(rank C, n_L), c_ab = L and
    this is :func:`paper_step`.

    Args:
        network: the weights.
        problem: C, W*, Σ.
        damping: λ ≥ 0; replaces M⁺ by (MᵀM + √λ I)⁻¹Mᵀ, as in :func:`paper_step`. Inexact unless 0.

    Returns:
        One matrix n_i × n_{i−1} a layer.
    """
    maps = whiten(network, problem)
    # Where ranks agree nested_basis keeps the last space given: the shortest product, the most accurate.
    left = nested_basis([svd.left for svd in maps.outputs])
    right = nested_basis([svd.right for svd in reversed(maps.inputs)])
    counts = layer_counts([svd.rank for svd in maps.outputs], [svd.rank for svd in maps.inputs], maps.error)
    rotated = left.T @ maps.error @ right
    shared = torch.where(counts > 0, rotated / counts.clamp(min=1), torch.zeros_like(rotated))
    return _spread(maps, left @ shared @ right.T, damping)


def minimum_norm_step(network: DeepLinearNetwork, problem: LinearProblem, *, damping: float = 0.0) -> list[Tensor]:
    """Return −F⁺∇, the natural gradient of least Euclidean norm, as ΔW_i = −B̃_iᵀ Y Ã_iᵀ.

    vec Y = (J̃J̃ᵀ + λ I)⁺ vec Ẽ with J̃J̃ᵀ = Σ_i B̃_iB̃_iᵀ ⊗ Ã_iᵀÃ_i, a system of n_0 n_L unknowns. Exact for
    any widths, weights and rank of C; when J has full row rank it is −B_iᵀ Y A_iᵀ with vec Y = (Σ_i B_iB_iᵀ ⊗
    A_iᵀA_i)⁻¹ vec E, free of C and Σ. Eigenvalues below n_0 n_L · eps · the largest count as zero.

    Args:
        network: the weights.
        problem: C, W*, Σ.
        damping: λ ≥ 0; the step is then −(F + λ I)⁻¹∇.

    Returns:
        One matrix n_i × n_{i−1} a layer.

    Raises:
        UserError: more than ``MINIMUM_NORM_LIMIT`` unknowns.
    """
    n_in, n_out = problem.dims
    if n_in * n_out > MINIMUM_NORM_LIMIT:
        raise UserError(
            f"the minimum-norm form solves for {n_in} × {n_out} = {n_in * n_out} unknowns at once (limit "
            f"{MINIMUM_NORM_LIMIT}); use the any-width form"
        )
    error = problem.noise_inverse_root @ problem.error(network) @ problem.input_root
    outputs = [problem.noise_inverse_root @ b for b in network.output_products]
    inputs = [a @ problem.input_root for a in network.input_products]
    gram = torch.zeros(n_in * n_out, n_in * n_out, dtype=error.dtype, device=error.device)
    for b, a in zip(outputs, inputs, strict=True):
        gram += torch.kron(b @ b.T, a.T @ a)
    values, vectors = torch.linalg.eigh(gram)
    kept = values > values.max() * values.numel() * torch.finfo(values.dtype).eps
    basis = vectors[:, kept]
    solved = basis @ ((basis.T @ error.reshape(-1)) / (values[kept] + damping))
    y = solved.reshape(n_out, n_in)
    return [-b.T @ y @ a.T for b, a in zip(outputs, inputs, strict=True)]


def layer_counts(output_ranks: list[int], input_ranks: list[int], like: Tensor) -> Tensor:
    """Return c_ab = #{i : a < rank B̃_i and b < rank Ã_i} for the shape and dtype of ``like`` (n_L × n_0)."""
    rows = torch.arange(like.shape[0], device=like.device)
    columns = torch.arange(like.shape[1], device=like.device)
    counts = torch.zeros_like(like)
    for p, q in zip(output_ranks, input_ranks, strict=True):
        counts += ((rows < p)[:, None] & (columns < q)[None, :]).to(like.dtype)
    return counts


def _spread(maps: WhitenedMaps, share: Tensor, damping: float) -> list[Tensor]:
    """Return −B̃_i⁺ X Ã_i⁺ for every layer, with damped pseudo-inverses."""
    return [
        -out.inverse(damping) @ share @ inp.inverse(damping) for out, inp in zip(maps.outputs, maps.inputs, strict=True)
    ]
