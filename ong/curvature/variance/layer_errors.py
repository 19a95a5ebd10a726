"""Measured relative errors of whole layers, with the measurement's own standard error.

An estimate of a Linear layer's diag F is a mean over inputs of v_x (a_x∘a_x)ᵀ with one number v_xi an output i, so the
squared error of all its entries is Σ_{x,x'} K_xx' (Δ_x·Δ_x')/B², K_xx' = (a_x∘a_x)·(a_x'∘a_x') + 1 for the bias: no
estimate is ever formed, and hundreds of repeats cost less than the derivatives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ong.curvature.variance.checks import check_count, check_name, resolve_family
from ong.curvature.variance.closed_forms import ESTIMATORS, SECOND_ORDER
from ong.curvature.variance.coordinates import layer_derivatives
from ong.curvature.variance.estimators import draw_cotangents
from ong.curvature.variance.families import Family
from ong.curvature.variance.monte_carlo import draw_values
from ong.curvature.variance.network import Network, open_network
from ong.errors import UserError

__all__ = ["LayerError", "measured_relative_std"]


@dataclass(frozen=True)
class LayerError:
    """A measured relative standard deviation of one layer's diag F and its standard error."""

    relative_std: float
    standard_error: float


def measured_relative_std(
    model: nn.Module,
    inputs: Tensor,
    *,
    family: str | Family = "categorical",
    estimators: Sequence[str] = ESTIMATORS,
    draws: int = 1,
    repeats: int = 400,
    generator: torch.Generator | None = None,
) -> dict[str, dict[str, LayerError]]:
    """Return by layer and estimator sqrt(mean ‖diag F̂ − diag F‖²)/‖diag F‖ over repeated estimates.

    What ``relative_std`` says in closed form, measured. The standard error is that of a mean over ``repeats`` squared
    errors, carried through the root; for ``mc`` on a confident net it is itself a rough estimate, as rare labels carry
    the variance. NaN where diag F vanishes.

    Args:
        model: its trainable parameters are those of Linear layers, each applied to one vector an example.
        inputs: ``[B, …]``, all held at once: B² and B·d_out·C numbers.
        family: the likelihood.
        estimators: among ``mc``, ``hessian``, ``mixture``, ``rademacher``, ``gaussian``.
        draws: N label draws at each input.
        repeats: R ≥ 4.
        generator: source of the randomness.

    Raises:
        UserError: unknown names, counts out of range, or parameters outside such layers.
    """
    likelihood = resolve_family(family)
    for name in estimators:
        check_name("estimator", name, ESTIMATORS)
    check_count("draws", draws)
    check_count("repeats", repeats, 4)
    second_order = not SECOND_ORDER.isdisjoint(estimators)
    with open_network(model, inputs) as network:
        plain = network.plain_parameters()
        if plain:
            raise UserError(
                f"parameter '{plain[0]}' is not of a Linear layer on vectors; only those are measured whole"
            )
        h = network.checked_outputs(inputs)
        layer_inputs = network.layer_inputs(inputs)
        result: dict[str, dict[str, LayerError]] = {}
        for layer in network.factored:
            kernel = _kernel(network, layer, layer_inputs[layer])
            J, D = layer_derivatives(network, inputs, layer, h, second_order)
            fisher = likelihood.second(h.unsqueeze(1), J, J)
            norm = float((kernel * (fisher @ fisher.T)).sum())
            result[layer] = {}
            for name in estimators:
                values = torch.stack(
                    [
                        draw_values(
                            likelihood,
                            name,
                            h[x],
                            J[x],
                            D[x],
                            draw_cotangents(likelihood, h[x : x + 1], name, repeats * draws, generator)[0],
                        )
                        .view(repeats, draws, -1)
                        .mean(1)
                        for x in range(len(inputs))
                    ],
                    dim=1,
                )  # [R, B, d_out]
                gap = values - fisher
                squares = (kernel * (gap @ gap.mT)).sum((1, 2))
                result[layer][name] = _error(squares / norm if norm else squares * float("nan"))
    return result


def _kernel(network: Network, layer: str, a: Tensor) -> Tensor:
    """Return K, ``[B, B]``."""
    squares = a.square()
    kinds = network.factored_parameters(layer)
    kernel = squares @ squares.T if "weight" in kinds else torch.zeros(len(a), len(a), dtype=a.dtype, device=a.device)
    return kernel + 1 if "bias" in kinds else kernel


def _error(squares: Tensor) -> LayerError:
    mean = float(squares.mean())
    spread = float(squares.std()) / len(squares) ** 0.5
    root = mean**0.5
    return LayerError(root, spread / (2 * root) if root > 0 else 0.0 if root == 0 else float("nan"))
