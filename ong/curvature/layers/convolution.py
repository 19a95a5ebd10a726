"""Convolutions in one to three dimensions, and transposed ones."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature.layers.linear import with_ones
from ong.curvature.layers.registry import Call, LayerFactors, Layout, layer_factors, layer_layouts

__all__: list[str] = []

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_Transposed = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


def _patches(images: Tensor, module: Any) -> Tensor:
    """Return what the kernel sees at each place, ``[N, T, channels · kernel]``.

    An entry of the kernel is copied at all places at once, which takes half of the time of ``F.unfold``.
    """
    kernel, stride, dilation = module.kernel_size, module.stride, module.dilation
    places = [
        (size - spread * (width - 1) - 1) // step + 1
        for size, width, step, spread in zip(images.shape[2:], kernel, stride, dilation, strict=True)
    ]
    patches = images.new_empty(*images.shape[:2], math.prod(kernel), *places)
    for entry, place in enumerate(product(*map(range, kernel))):
        seen: Any = [
            slice(start * spread, start * spread + step * (n - 1) + 1, step)
            for start, spread, step, n in zip(place, dilation, stride, places, strict=True)
        ]
        patches[:, :, entry] = images[:, :, *seen]
    return patches.flatten(1, 2).flatten(2).mT


def _padding(module: _Convolution) -> list[int]:
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


def _of_groups(
    images: Tensor, cotangents: Tensor, module: Any, padding: list[int], output_padding: list[int]
) -> Tensor:
    """Return each example's gradient of the weight, ``[N, rows, columns]``, with no numbers for other groups' inputs.

    The examples become groups too: one backward pass of a convolution with N times the groups has all N gradients.
    """
    n = len(images)
    gradient: Tensor = torch.ops.aten.convolution_backward(
        cotangents.reshape(1, -1, *cotangents.shape[2:]),
        images.reshape(1, -1, *images.shape[2:]),
        images.new_zeros(n * len(module.weight), *module.weight.shape[1:]),
        None,
        list(module.stride),
        padding,
        list(module.dilation),
        module.transposed,
        output_padding,
        n * module.groups,
        [False, True, False],
    )[1]
    return gradient.reshape(n, len(module.weight), -1)


def _own_positions(gradients: Tensor, shift: Tensor | None) -> LayerFactors:
    """Each row's gradient is its own position, with δ = e_row."""
    rows = gradients.shape[1]
    own = torch.eye(rows, dtype=gradients.dtype, device=gradients.device).expand(len(gradients), rows, rows)
    return LayerFactors(gradients, None if shift is None else shift[..., None], own)


@layer_layouts.register(nn.Conv1d)
@layer_layouts.register(nn.Conv2d)
@layer_layouts.register(nn.Conv3d)
def _(module: _Convolution) -> tuple[Layout, ...]:
    return (Layout(rows=module.out_channels, affine=module.groups == 1),)


@layer_factors.register(nn.Conv1d)
@layer_factors.register(nn.Conv2d)
@layer_factors.register(nn.Conv3d)
def _(module: _Convolution, call: Call) -> LayerFactors:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    images, cotangents = F.pad(call.inputs, _padding(module), mode=mode), call.cotangents
    if module.groups == 1:
        return with_ones(_patches(images, module), cotangents.flatten(2).mT)
    nothing = [0] * len(module.kernel_size)
    gradients = _of_groups(images, cotangents, module, nothing, nothing)
    return _own_positions(gradients, cotangents.flatten(2).sum(2))


@layer_layouts.register(nn.ConvTranspose1d)
@layer_layouts.register(nn.ConvTranspose2d)
@layer_layouts.register(nn.ConvTranspose3d)
def _(module: _Transposed) -> tuple[Layout, ...]:
    """The weight is ``[in, out, kernel]``: the inputs' channels are its rows, and the bias is a matrix of its own."""
    weight = Layout("weight", None, rows=module.in_channels)
    return (weight,) if module.bias is None else (weight, Layout("bias", None))


@layer_factors.register(nn.ConvTranspose1d)
@layer_factors.register(nn.ConvTranspose2d)
@layer_factors.register(nn.ConvTranspose3d)
def _(module: _Transposed, call: Call) -> dict[str, LayerFactors]:
    """Pixel p of the input goes to patch p of the output, so δ is that pixel and a that patch of the cotangent."""
    images, cotangents = call.inputs, call.cotangents
    padding = [int(size) for size in module.padding]
    padded = F.pad(cotangents, [size for size in reversed(padding) for _ in range(2)])
    reached = [
        (pixels - 1) * stride + dilation * (kernel - 1) + 1
        for pixels, kernel, stride, dilation in zip(
            images.shape[2:], module.kernel_size, module.stride, module.dilation, strict=True
        )
    ]
    if module.groups == 1:
        for axis, size in enumerate(reached, 2):
            padded = padded.narrow(axis, 0, size)
        weight = LayerFactors(_patches(padded, module), None, images.flatten(2).mT)
    else:
        beyond = [size - reach for size, reach in zip(padded.shape[2:], reached, strict=True)]
        weight = _own_positions(_of_groups(images, cotangents, module, padding, beyond), None)
    shift = cotangents.flatten(2).sum(2)[:, None]
    return {"weight": weight, "bias": LayerFactors(shift, None, shift.new_ones(len(shift), 1, 1))}
