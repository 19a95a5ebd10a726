"""Linear, Bilinear, and the transposed linear layer of transformers."""

from __future__ import annotations

import sys
from functools import cache

import torch
from torch import Tensor, nn

from ong.curvature.layers.registry import Call, LayerFactors, Layout, layer_factors, layer_layouts, leading_dimension
from ong.extensions import load_all

__all__ = ["register_loaded", "with_ones"]


def with_ones(inputs: Tensor, cotangents: Tensor) -> LayerFactors:
    """Return factors of W a + b from a ``[N, …, columns]`` and δ ``[N, …, rows]``."""
    n = len(inputs)
    a, d = inputs.reshape(n, -1, inputs.shape[-1]), cotangents.reshape(n, -1, cotangents.shape[-1])
    return LayerFactors(a, a.new_ones(*a.shape[:2], 1), d)


@layer_layouts.register
def _(module: nn.Linear) -> tuple[Layout, ...]:
    return (Layout(rows=leading_dimension(module), affine=True),)


@layer_factors.register
def _(module: nn.Linear, call: Call) -> LayerFactors:
    return with_ones(call.inputs, call.cotangents)


@layer_factors.register
def _(module: nn.Bilinear, call: Call) -> LayerFactors:
    """W is ``[out, in1, in2]``, so a = vec(x₁x₂ᵀ)."""
    left, right = call.argument(0, "input1"), call.argument(1, "input2")
    return with_ones(torch.einsum("...i,...j->...ij", left, right).flatten(-2), call.cotangents)


def _transposed_layouts(module: nn.Module) -> tuple[Layout, ...]:
    weight = module.get_parameter("weight")
    return (Layout(rows=weight.shape[1], transposed=True, affine=True),)


def _transposed(module: nn.Module, call: Call) -> LayerFactors:
    return with_ones(call.inputs, call.cotangents)


@cache
def _load_installed() -> None:
    load_all("ong.layers")


def register_loaded() -> None:
    """Register the layer types of other packages: ``Conv1D`` of transformers, x W + b, and those of entry points."""
    _load_installed()
    found = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    if found is not None and layer_factors.dispatch(found) is not _transposed:
        layer_layouts.register(found, _transposed_layouts)
        layer_factors.register(found, _transposed)
