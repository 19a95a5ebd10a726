"""The Fisher matrix of a deep linear network, as a matrix and a product, and the residual of F v = −∇."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ong.errors import UserError
from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.problem import LinearProblem

__all__ = [
    "EXPLICIT_LIMIT",
    "fisher_matrix",
    "fisher_product",
    "flatten",
    "natural_gradient_residual",
    "unflatten",
]

EXPLICIT_LIMIT = 4000
"""The most parameters for which a p × p matrix is formed (128 MB in float64)."""


def flatten(matrices: Sequence[Tensor]) -> Tensor:
    """Return matrices of all layers as one vector, layer after layer, each row by row."""
    return torch.cat([m.reshape(-1) for m in matrices])


def unflatten(vector: Tensor, network: DeepLinearNetwork) -> list[Tensor]:
    """Return a vector of all parameters as matrices of the shapes of the network's weights."""
    parts = torch.split(vector, [w.numel() for w in network.weights])
    return [part.reshape(w.shape) for part, w in zip(parts, network.weights, strict=True)]


def fisher_matrix(network: DeepLinearNetwork, problem: LinearProblem) -> Tensor:
    """Return F = Jᵀ (Σ⁻¹ ⊗ C) J, p × p, with block (i, j) = B_iᵀΣ⁻¹B_j ⊗ A_i C A_jᵀ.

    Parameters are ordered as by :func:`flatten`. Costs p² memory.

    Raises:
        UserError: more than ``EXPLICIT_LIMIT`` parameters.
    """
    if network.parameter_count > EXPLICIT_LIMIT:
        raise UserError(
            f"the Fisher matrix of {network.parameter_count} weights is not formed (limit {EXPLICIT_LIMIT}); "
            "use fisher_product"
        )
    problem.error(network)
    rows = [
        torch.cat(
            [
                torch.kron(b_i.T @ problem.noise_inverse @ b_j, a_i @ problem.input_cov @ a_j.T)
                for b_j, a_j in zip(network.output_products, network.input_products, strict=True)
            ],
            dim=1,
        )
        for b_i, a_i in zip(network.output_products, network.input_products, strict=True)
    ]
    return torch.cat(rows)


def fisher_product(network: DeepLinearNetwork, problem: LinearProblem, directions: Sequence[Tensor]) -> list[Tensor]:
    """Return F v as matrices B_iᵀ (Σ⁻¹ (J v) C) A_iᵀ without forming F; as cheap as two gradients."""
    return network.vjp(problem.noise_inverse @ network.jvp(directions) @ problem.input_cov)


def natural_gradient_residual(
    network: DeepLinearNetwork,
    problem: LinearProblem,
    step: Sequence[Tensor],
    *,
    explicit: bool = False,
) -> float:
    """Return ‖F v + ∇‖ / ‖∇‖, zero for an exact natural-gradient step v of unit rate.

    Args:
        network: the weights at which the step was taken.
        problem: the problem whose likelihood the step descends.
        step: ΔW_i for a rate of 1.
        explicit: form F (small networks only) rather than multiply by it.

    Returns:
        The relative residual; 0 where the gradient vanishes.
    """
    gradient = flatten(problem.gradients(network))
    size = float(gradient.norm())
    if size == 0.0:
        return 0.0
    if explicit:
        product = fisher_matrix(network, problem) @ flatten(step)
    else:
        product = flatten(fisher_product(network, problem, step))
    return float((product + gradient).norm()) / size
