"""Scale and shift: normalisation layers, and PReLU."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature.layers.registry import (
    Call,
    LayerFactors,
    Layout,
    UnsupportedLayerError,
    layer_factors,
    layer_layouts,
)

__all__: list[str] = []

_BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
_InstanceNorm = nn.InstanceNorm1d | nn.InstanceNorm2d | nn.InstanceNorm3d


def _of_channels(scaled: Tensor, cotangents: Tensor) -> LayerFactors:
    """Parameters of axis 1: the exact gradient, summed over the other axes, is its own factor with δ = 1."""
    scale, shift = ((t.flatten(2).sum(2) if t.ndim > 2 else t)[:, None] for t in (scaled * cotangents, cotangents))
    return LayerFactors(scale, shift, scale.new_ones(len(scale), 1, 1))


def _of_last_axes(scaled: Tensor, cotangents: Tensor, width: int) -> LayerFactors:
    """The same for parameters that span the trailing axes, ``width`` numbers in all."""
    n = len(scaled)
    scale, shift = (t.reshape(n, -1, width).sum(1)[:, None] for t in (scaled * cotangents, cotangents))
    return LayerFactors(scale, shift, scale.new_ones(n, 1, 1))


@layer_factors.register(nn.BatchNorm1d)
@layer_factors.register(nn.BatchNorm2d)
@layer_factors.register(nn.BatchNorm3d)
@layer_factors.register(nn.SyncBatchNorm)
def _(module: _BatchNorm, call: Call) -> LayerFactors:
    mean, variance = module.running_mean, module.running_var
    if module.training or mean is None or variance is None:
        raise UnsupportedLayerError(
            f"{type(module).__name__} mixes the examples of a batch unless it is in eval mode with running statistics"
        )
    normalised = F.batch_norm(call.inputs, mean.to(call.inputs), variance.to(call.inputs), eps=module.eps)
    return _of_channels(normalised, call.cotangents)


@layer_factors.register(nn.InstanceNorm1d)
@layer_factors.register(nn.InstanceNorm2d)
@layer_factors.register(nn.InstanceNorm3d)
def _(module: _InstanceNorm, call: Call) -> LayerFactors:
    own = module.training or not module.track_running_stats
    mean, variance = (None, None) if own else (module.running_mean, module.running_var)
    normalised = F.instance_norm(call.inputs, mean, variance, use_input_stats=own, eps=module.eps)
    return _of_channels(normalised, call.cotangents)


@layer_factors.register
def _(module: nn.GroupNorm, call: Call) -> LayerFactors:
    return _of_channels(F.group_norm(call.inputs, module.num_groups, eps=module.eps), call.cotangents)


@layer_layouts.register(nn.LayerNorm)
@layer_layouts.register(nn.RMSNorm)
def _(module: nn.LayerNorm | nn.RMSNorm) -> tuple[Layout, ...]:
    return (Layout(rows=1),)


@layer_factors.register
def _(module: nn.LayerNorm, call: Call) -> LayerFactors:
    inputs, cotangents = call.inputs, call.cotangents
    if _is_channels_first(module, inputs):
        inputs, cotangents = inputs.movedim(1, -1), cotangents.movedim(1, -1)
    normalised = F.layer_norm(inputs, module.normalized_shape, eps=module.eps)
    return _of_last_axes(normalised, cotangents, module.weight.numel())


def _is_channels_first(module: nn.LayerNorm, inputs: Tensor) -> bool:
    """Return whether a subclass seems to normalise axis 1, as the LayerNorm2d of torchvision and timm do."""
    own_forward = type(module).forward is not nn.LayerNorm.forward
    fits = inputs.ndim > 2 and inputs.shape[1:2] == module.normalized_shape
    return own_forward and fits and (inputs.ndim == 4 or inputs.shape[-1:] != module.normalized_shape)


@layer_factors.register
def _(module: nn.RMSNorm, call: Call) -> LayerFactors:
    normalised = F.rms_norm(call.inputs, module.normalized_shape, eps=module.eps)
    return _of_last_axes(normalised, call.cotangents, module.weight.numel())


@layer_factors.register
def _(module: nn.PReLU, call: Call) -> LayerFactors:
    below = call.inputs.clamp_max(0)
    if module.num_parameters == 1:
        return _of_last_axes(below, call.cotangents, 1)
    return _of_channels(below, call.cotangents)
