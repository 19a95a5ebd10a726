"""Per-example gradients of each layer type, as factors.

The registry :func:`layer_factors` is a ``functools.singledispatch`` on the module's type: a new layer type is one
function, registered from anywhere::

    @layer_factors.register
    def _(module: MyLayer, inputs: Tensor, cotangents: Tensor) -> LayerFactors: ...

A layer's parameters are seen as one matrix: the weight with its leading dimension as rows (one row for the
one-dimensional weights of normalisation layers), the bias as further columns. The gradient of example n is

    G_n = Σ_t δ_nt a_ntᵀ        (rows × columns)

summed over the T positions at which the layer's weights act on that example (1 for a plain ``Linear``, the pixels of
the output for a convolution). Eschenhagen et al., arXiv 2311.00636, call this the "expand" setting.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.errors import UserError

__all__ = ["LayerFactors", "UnsupportedLayerError", "layer_factors"]


class UnsupportedLayerError(UserError):
    """A module holds trainable parameters whose per-example gradients are not known here."""


class LayerFactors(NamedTuple):
    """Factors of the gradients of N examples at T positions.

    Attributes:
        weight_inputs: ``[N, T, weight columns]``, what the weight is multiplied with.
        bias_inputs: ``[N, T, bias columns]``, the same for the bias (ones for ``Linear``).
        outputs: ``[N, T, rows]``, the cotangent δ that reached the layer's output.
    """

    weight_inputs: Tensor
    bias_inputs: Tensor
    outputs: Tensor


@singledispatch
def layer_factors(module: nn.Module, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    """Return the factors of a layer's per-example gradients.

    Args:
        module: the layer.
        inputs: what it was called with, examples first.
        cotangents: gradient of Σ_n u_nᵀh_n with respect to the layer's output, of the output's shape.

    Raises:
        UnsupportedLayerError: no function is registered for the module's type.
    """
    raise UnsupportedLayerError(f"layers of type {type(module).__name__} are not supported")


def _linear(inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    n = len(inputs)
    a, d = inputs.reshape(n, -1, inputs.shape[-1]), cotangents.reshape(n, -1, cotangents.shape[-1])
    return LayerFactors(a, a.new_ones(*a.shape[:2], 1), d)


@layer_factors.register
def _(module: nn.Linear, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    return _linear(inputs, cotangents)


def _padding(module: nn.Conv1d | nn.Conv2d) -> list[int]:
    """Padding of each side, last dimension first, as ``F.pad`` takes it."""
    sides: list[int] = []
    for axis in reversed(range(len(module.kernel_size))):
        if module.padding == "same":
            total = module.dilation[axis] * (module.kernel_size[axis] - 1)
            sides += [total // 2, total - total // 2]
        elif module.padding == "valid":
            sides += [0, 0]
        else:
            sides += [int(module.padding[axis])] * 2
    return sides


@layer_factors.register(nn.Conv1d)
@layer_factors.register(nn.Conv2d)
def _(module: nn.Conv1d | nn.Conv2d, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    inputs = F.pad(inputs, _padding(module), mode=mode)
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    if isinstance(module, nn.Conv1d):
        inputs, kernel, stride, dilation = inputs.unsqueeze(2), (1, *kernel), (1, *stride), (1, *dilation)
    n, groups, rows = len(inputs), module.groups, module.out_channels
    if groups == 1:
        patches = F.unfold(inputs, kernel, dilation=dilation, stride=stride)  # [N, channels · kernel, T]
        return _linear(patches.mT, cotangents.flatten(2).mT)
    # A group's rows see that group's inputs only: each row's gradient is its own position, with δ = e_row. The patches
    # of all channels are many more numbers than the gradient, so those of one example are laid out at a time.
    d = cotangents.reshape(n, groups, rows // groups, -1)
    weight = d.new_empty(n, rows, module.weight[0].numel())
    for image, of_image, row in zip(inputs, d, weight, strict=True):
        patches = F.unfold(image[None], kernel, dilation=dilation, stride=stride)
        row.copy_((of_image @ patches.reshape(groups, -1, patches.shape[-1]).mT).reshape(rows, -1))
    own = torch.eye(rows, dtype=d.dtype, device=d.device).expand(n, rows, rows)
    return LayerFactors(weight, d.sum(3).reshape(n, rows, 1), own)


def _affine(normalised: Tensor, cotangents: Tensor, channel_axis: int | None, shape: int) -> LayerFactors:
    """Scale and shift: the exact gradient, summed over positions, is its own factor with δ = 1."""
    n = len(normalised)
    if channel_axis is None:  # the parameters span the trailing dimensions
        scale = (normalised * cotangents).reshape(n, -1, shape).sum(1)
        shift = cotangents.reshape(n, -1, shape).sum(1)
    else:
        scale = (normalised * cotangents).flatten(2).sum(2) if normalised.ndim > 2 else normalised * cotangents
        shift = cotangents.flatten(2).sum(2) if cotangents.ndim > 2 else cotangents
    return LayerFactors(scale[:, None], shift[:, None], scale.new_ones(n, 1, 1))


@layer_factors.register(nn.BatchNorm1d)
@layer_factors.register(nn.BatchNorm2d)
@layer_factors.register(nn.BatchNorm3d)
def _(module: nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    if module.training or module.running_mean is None or module.running_var is None:
        raise UnsupportedLayerError(
            f"{type(module).__name__} mixes the examples of a batch unless it is in eval mode with running statistics"
        )
    normalised = F.batch_norm(inputs, module.running_mean, module.running_var, eps=module.eps)
    return _affine(normalised, cotangents, 1, module.num_features)


@layer_factors.register
def _(module: nn.GroupNorm, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    normalised = F.group_norm(inputs, module.num_groups, eps=module.eps)
    return _affine(normalised, cotangents, 1, module.num_channels)


@layer_factors.register
def _(module: nn.LayerNorm, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    normalised = F.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    return _affine(normalised, cotangents, None, module.weight.numel())


@layer_factors.register
def _(module: nn.Embedding, inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    """Rows are the vocabulary, so δ is the one-hot code and a the cotangent: V numbers an index are kept."""
    if module.max_norm is not None or module.scale_grad_by_freq or module.sparse:
        raise UnsupportedLayerError("Embedding with max_norm, scale_grad_by_freq or sparse gradients is not supported")
    n, width = len(inputs), module.embedding_dim
    words = inputs.reshape(n, -1, 1)
    codes = cotangents.new_zeros(n, words.shape[1], module.num_embeddings).scatter_(2, words.long(), 1)
    if module.padding_idx is not None:
        codes[..., module.padding_idx] = 0  # autograd leaves that row alone
    a = cotangents.reshape(n, -1, width)
    return LayerFactors(a, a.new_empty(*a.shape[:2], 0), codes)
