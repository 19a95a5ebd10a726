"""First and second derivatives of the outputs along every single parameter, reduced on the fly.

For each input and each coordinate θ_i a statistic sees J_i = ∂h/∂θ_i and D_i = ∂²h/∂θ_i², both in R^C, and
returns numbers; only their mean over inputs is kept, so memory is O(parameters). Two exact ways:

- factored Linear layers (see ``network``): derivatives along the d_out outputs of the layer, then scaled by
  the layer's inputs; d_out passes of forward-over-reverse for all inputs of a chunk at once;
- plain parameters (convolutions, norms, Linear layers on sequences, shared weights): one pass a parameter
  and input. J alone needs C backward passes and C x (the largest such tensor) numbers. D is slow: use it on
  small tensors.

Forward-over-reverse, not nested forward mode: the latter is silently wrong in PyTorch for some operators
(layer_norm: pytorch/pytorch issues 196700, 198017).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import jvp, vjp, vmap

from ong.curvature.variance.network import Network

__all__ = ["Statistic", "layer_derivatives", "mean_over_inputs", "tensor_derivatives"]

Statistic = Callable[[slice, Tensor, Tensor, Tensor], dict[str, Tensor]]
"""(rows, h [B, C], J [B, n, C], D [B, n, C]) -> {key: [B, n]}; D is empty unless asked for."""

NUMBERS_A_PASS = 2**22  # tangent numbers alive at once, about 32 MB in float64 per intermediate
INPUTS_A_CHUNK = 64


def mean_over_inputs(
    network: Network,
    inputs: Tensor,
    statistic: Statistic,
    degrees: Mapping[str, int],
    *,
    second_order: bool,
) -> dict[str, dict[str, Tensor]]:
    """Return the mean over inputs of a statistic of each coordinate, {key: {parameter: tensor of its shape}}.

    Args:
        network: an open network.
        inputs: ``[B, …]``.
        statistic: see ``Statistic``; must be a function of each coordinate alone.
        degrees: for each key the power m with stat(s J, s² D) = sᵐ stat(J, D): 2 for a Fisher diagonal, 4 for
            a variance.
        second_order: compute D.
    """
    totals = {key: {name: torch.zeros_like(p) for name, p in network.parameters.items()} for key in degrees}
    for start in range(0, len(inputs), INPUTS_A_CHUNK):
        chunk = inputs[start : start + INPUTS_A_CHUNK]
        h = network.checked_outputs(chunk)
        rows = slice(start, start + len(chunk))
        layer_inputs = network.layer_inputs(chunk)
        for layer in network.factored:
            J, D = layer_derivatives(network, chunk, layer, h, second_order)
            for key, values in statistic(rows, h, J, D).items():
                powers = layer_inputs[layer] ** degrees[key]
                for kind, name in network.factored_parameters(layer).items():
                    totals[key][name] += values.T @ powers if kind == "weight" else values.sum(0)
        for name in network.plain_parameters():
            for row in range(len(chunk)):
                J, D = tensor_derivatives(network, chunk[row], name, second_order=second_order)
                found = statistic(slice(start + row, start + row + 1), h[row : row + 1], J[None], D[None])
                for key, values in found.items():
                    totals[key][name] += values[0].view_as(totals[key][name])
    return {key: {name: total / len(inputs) for name, total in by_name.items()} for key, by_name in totals.items()}


def layer_derivatives(
    network: Network, inputs: Tensor, layer: str, h: Tensor, second_order: bool
) -> tuple[Tensor, Tensor]:
    """Return ∂h/∂z and ∂²h/∂z_i² of a factored layer, ``[B, d_out, C]`` each."""
    width = network.width(layer)
    origin = h.new_zeros(len(inputs), width)
    eye = torch.eye(h.shape[1], dtype=h.dtype, device=h.device)
    cotangents = eye.unsqueeze(1).expand(-1, len(inputs), -1)

    def jacobian(offset: Tensor) -> Tensor:  # [C, B, d_out]
        pull = vjp(lambda e: network.outputs_from_offsets(inputs, {layer: e}), offset)[1]
        return vmap(lambda u: pull(u)[0])(cotangents)  # type: ignore[no-any-return]

    def second(direction: Tensor) -> Tensor:  # [C, B]
        tangent = jvp(jacobian, (origin,), (direction.expand_as(origin),))[1]
        return (tangent * direction).sum(-1)  # type: ignore[no-any-return]

    J = jacobian(origin).permute(1, 2, 0)
    if not second_order:
        return J, J.new_empty(*J.shape[:2], 0)
    directions = torch.eye(width, dtype=h.dtype, device=h.device)
    chunk = max(1, NUMBERS_A_PASS // (len(inputs) * h.shape[1] * width))
    return J, vmap(second, chunk_size=chunk)(directions).permute(2, 0, 1)


def tensor_derivatives(
    network: Network, example: Tensor, name: str, indices: Tensor | None = None, *, second_order: bool = True
) -> tuple[Tensor, Tensor]:
    """Return ∂h/∂θ_i and ∂²h/∂θ_i² for entries of one parameter tensor at one input, ``[n, C]`` each.

    Args:
        network: an open network.
        example: one input, without the batch axis.
        name: the parameter.
        indices: flat positions in it; all when None.
        second_order: otherwise the second array is empty, ``[n, 0]``.
    """
    value = network.parameters[name]
    flat = value.reshape(-1)

    def outputs(entries: Tensor) -> Tensor:
        return network.outputs(example[None], {name: entries.view_as(value)})[0]

    def jacobian(entries: Tensor) -> Tensor:  # [C, P]
        h, pull, *_ = vjp(outputs, entries)
        return vmap(lambda u: pull(u)[0])(torch.eye(len(h), dtype=h.dtype, device=h.device))  # type: ignore[no-any-return]

    def second(index: Tensor) -> Tensor:  # [C]
        direction = (positions == index).to(flat)
        return (jvp(jacobian, (flat,), (direction,))[1] * direction).sum(-1)  # type: ignore[no-any-return]

    positions = torch.arange(flat.numel(), device=flat.device)
    wanted = positions if indices is None else indices.to(flat.device)
    J = jacobian(flat)[:, wanted].T
    if not second_order:
        return J, J.new_empty(len(J), 0)
    chunk = max(1, NUMBERS_A_PASS // (J.shape[1] * flat.numel()))
    return J, vmap(second, chunk_size=chunk)(wanted)
