"""Newton's method on the expected loss of a deep linear network: a yardstick, no natural gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from ong.errors import UserError
from ong.natural.deep_linear.fisher import flatten, unflatten
from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.problem import LinearProblem

__all__ = ["NEWTON_LIMIT", "hessian_matrix", "newton_step"]

NEWTON_LIMIT = 1500
"""The most parameters for which the Hessian is formed and decomposed."""


def hessian_matrix(network: DeepLinearNetwork, problem: LinearProblem) -> Tensor:
    """Return the Hessian of ½ tr(Σ⁻¹ E C Eᵀ), p × p.

    It is the Fisher matrix plus terms linear in E, indefinite in general. By forward-over-reverse
    differentiation; parameters are ordered as by :func:`flatten`.

    Raises:
        UserError: more than ``NEWTON_LIMIT`` parameters.
    """
    if network.parameter_count > NEWTON_LIMIT:
        raise UserError(
            f"the Hessian of {network.parameter_count} parameters is not formed (limit {NEWTON_LIMIT}); "
            "use a natural-gradient form, which scales"
        )
    problem.error(network)
    noise_inverse = problem.noise_inverse  # cached here: one made inside the transform would outlive it

    def loss(vector: Tensor) -> Tensor:
        layers = unflatten(vector, network)
        product = layers[0]
        for layer in layers[1:]:
            product = layer @ product
        error = product - problem.teacher
        return 0.5 * ((noise_inverse @ error @ problem.input_cov) * error).sum()

    hessian = torch.func.hessian(loss)(flatten(network.weights))
    assert isinstance(hessian, Tensor)
    return 0.5 * (hessian + hessian.T)


def newton_step(network: DeepLinearNetwork, problem: LinearProblem, *, damping: float = 0.0) -> list[Tensor]:
    """Return −(H + λ I)⁺ ∇ with the full Hessian H of the expected negative log-likelihood.

    Unlike the natural gradient (which is the Gauss-Newton step here, F being the Gauss-Newton matrix) it
    heeds the curvature of W_L … W_1 itself, so near the optimum it converges quadratically, and far from it,
    where H is indefinite, it is drawn to saddle points as to minima. Deep linear networks are degenerate
    along the L−1 changes of basis between layers, hence the pseudo-inverse: eigenvalues below p · eps · the
    largest count as zero.

    Args:
        network: the weights; at most ``NEWTON_LIMIT`` of them.
        problem: C, W*, Σ.
        damping: λ ≥ 0, added to every eigenvalue of H.

    Returns:
        One matrix n_i × n_{i−1} a layer.
    """
    values, vectors = torch.linalg.eigh(hessian_matrix(network, problem))
    damped = values + damping
    kept = damped.abs() > damped.abs().max() * damped.numel() * torch.finfo(damped.dtype).eps
    basis = vectors[:, kept]
    gradient = flatten(problem.gradients(network))
    return unflatten(-(basis @ ((basis.T @ gradient) / damped[kept])), network)
