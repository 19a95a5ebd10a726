"""Multi-head attention: its packed projection of queries, keys and values, and the projection of its output."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ong.curvature.layers.linear import with_ones
from ong.curvature.layers.registry import (
    Call,
    LayerFactors,
    Layout,
    UnsupportedLayerError,
    layer_factors,
    layer_layouts,
)

__all__: list[str] = []

_SIGNATURE = inspect.signature(nn.MultiheadAttention.forward)


@layer_layouts.register
def _(module: nn.MultiheadAttention) -> tuple[Layout, ...]:
    """``[W_q; W_k; W_v]`` with its bias, and the output's projection; none where keys are of their own kind."""
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        return ()
    bias = None if module.in_proj_bias is None else "in_proj_bias"
    return (
        Layout("in_proj_weight", bias, rows=3 * module.embed_dim, affine=True),
        Layout("out_proj.weight", bias and "out_proj.bias", rows=module.embed_dim, affine=True),
    )


@layer_factors.register
def _(module: nn.MultiheadAttention, call: Call) -> dict[str, LayerFactors]:
    """Take a = c, δ = ∂/∂z for W_o, and a = x, δ = (∂/∂q, ∂/∂k, ∂/∂v) for W_qkv.

    Here q, k, v are the projected inputs, c the heads' outputs side by side, z = W_o c + b_o. Where key or value are
    not the query, each input has positions of its own, and δ is zero at what it is not projected to.
    """
    given = _SIGNATURE.bind(module, *call.args, **call.kwargs).arguments
    if module.dropout and module.training:
        raise UnsupportedLayerError("MultiheadAttention draws its dropout anew, so its factors are known in eval mode")
    inputs = [given[name] for name in ("query", "key", "value")]
    if any(x.ndim != 3 for x in inputs):
        raise UnsupportedLayerError("MultiheadAttention is supported for inputs [examples, positions, width]")
    cotangents = call.cotangents
    same = [next(i for i, other in enumerate(inputs) if _is_same(other, x)) for x in inputs]
    if not module.batch_first:
        inputs, cotangents = [x.transpose(0, 1) for x in inputs], cotangents.transpose(0, 1)
    weight = module.in_proj_weight.detach().to(cotangents)
    bias = weight.new_zeros(len(weight)) if module.in_proj_bias is None else module.in_proj_bias.detach().to(weight)
    with torch.enable_grad():
        projected = [
            F.linear(x.to(weight), w, b).requires_grad_()
            for x, w, b in zip(inputs, weight.chunk(3), bias.chunk(3), strict=True)
        ]
        q, k, v = (x.reshape(*x.shape[:2], module.num_heads, -1).transpose(1, 2) for x in projected)
        mask = _mask(module, given.get("key_padding_mask"), given.get("attn_mask"), weight)
        context = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    back = cotangents @ module.out_proj.weight.detach().to(weight)
    parts = torch.autograd.grad(context, projected, back)
    a, d = [], []
    for place in sorted(set(same)):
        a.append(inputs[place].to(weight))
        pairs = zip(same, parts, strict=True)
        d.append(torch.cat([part if s == place else torch.zeros_like(parts[place]) for s, part in pairs], 2))
    return {
        "in_proj_weight": with_ones(torch.cat(a, 1), torch.cat(d, 1)),
        "out_proj.weight": with_ones(context.detach(), cotangents),
    }


def _is_same(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors show the same memory in the same way."""
    return one.data_ptr() == other.data_ptr() and one.shape == other.shape and one.stride() == other.stride()


def _mask(module: nn.MultiheadAttention, padding: Tensor | None, mask: Tensor | None, like: Tensor) -> Tensor | None:
    """Return the sum of both masks, to be added to the scores ``[N, heads, T, S]``."""
    total: Tensor | None = None
    if mask is not None:
        total = _added(mask, like)
        total = total.reshape(-1, module.num_heads, *mask.shape[1:]) if mask.ndim == 3 else total
    if padding is not None:
        over_keys = _added(padding, like)[:, None, None]
        total = over_keys if total is None else total + over_keys
    return total


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """Return a mask as numbers: −∞ where a Boolean one is true."""
    if mask.dtype != torch.bool:
        return mask.to(like)
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill_(mask, -torch.inf)
