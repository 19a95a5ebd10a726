"""Partial products in whitened coordinates, where the Fisher matrix of the end-to-end map is I."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.problem import LinearProblem

__all__ = ["ThinSVD", "WhitenedMaps", "nested_basis", "whiten"]


@dataclass(frozen=True, eq=False)
class ThinSVD:
    """M = U diag(s) Vᵀ without zero singular values: U (rows × rank), s (rank), V (columns × rank)."""

    left: Tensor
    values: Tensor
    right: Tensor

    @property
    def rank(self) -> int:
        """The number of singular values kept."""
        return self.values.numel()

    def inverse(self, damping: float = 0.0) -> Tensor:
        """Return (MᵀM + √damping I)⁻¹ Mᵀ, columns × rows; M⁺ at damping 0."""
        scales: Tensor = self.values / (self.values.square() + damping**0.5)
        return (self.right * scales) @ self.left.T


@dataclass(frozen=True, eq=False)
class WhitenedMaps:
    """B̃_i = Σ^{−½}B_i, Ã_i = A_i C^{½} for every layer, and Ẽ = Σ^{−½} E C^{½}.

    In these coordinates the loss is ½‖Ẽ‖²_F, J̃ v = Σ_i B̃_i V_i Ã_i, F = J̃ᵀJ̃ and ∇ = J̃ᵀ vec Ẽ.
    """

    outputs: tuple[ThinSVD, ...]
    inputs: tuple[ThinSVD, ...]
    error: Tensor


def whiten(network: DeepLinearNetwork, problem: LinearProblem) -> WhitenedMaps:
    """Return the whitened maps of a network for a problem.

    Ranks are the smaller of the structural one (narrowest layer passed, rank of C) and the number of singular
    values above max(shape) · eps · the largest: a long product of random layers is so ill-conditioned that
    rounding alone does not tell a bottleneck from a small singular value.
    """
    error = problem.error(network)
    dims = network.dims
    outputs = tuple(
        _thin_svd(problem.noise_inverse_root @ b, min(dims[layer + 1 :]))
        for layer, b in enumerate(network.output_products)
    )
    inputs = tuple(
        _thin_svd(a @ problem.input_root, min(problem.input_rank, *dims[: layer + 1]))
        for layer, a in enumerate(network.input_products)
    )
    return WhitenedMaps(outputs, inputs, problem.noise_inverse_root @ error @ problem.input_root)


def nested_basis(spaces: list[Tensor]) -> Tensor:
    """Return an orthogonal matrix whose first r columns span each of some nested subspaces of dimension r.

    Args:
        spaces: orthonormal bases n × r_k of subspaces of which each holds the smaller ones; where two have
            the same dimension they are the same space, and the later one in the list is used.
    """
    by_rank = {space.shape[1]: space for space in spaces}
    example = spaces[0]
    n = example.shape[0]
    basis = example.new_zeros(n, 0)
    for rank in sorted(by_rank):
        rest = by_rank[rank] - basis @ (basis.T @ by_rank[rank])
        new = torch.linalg.svd(rest, full_matrices=False)[0][:, : rank - basis.shape[1]]
        basis = torch.linalg.qr(torch.cat([basis, new], dim=1))[0]
    if basis.shape[1] < n:
        complement = torch.linalg.svd(basis, full_matrices=True)[0][:, basis.shape[1] :]
        basis = torch.cat([basis, complement], dim=1)
    return basis


def _thin_svd(matrix: Tensor, structural_rank: int) -> ThinSVD:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    above = values > values.max() * max(matrix.shape) * torch.finfo(values.dtype).eps
    rank = min(structural_rank, int(above.sum()))
    return ThinSVD(left[:, :rank], values[:rank], right[:rank].T)
