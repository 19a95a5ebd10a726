"""Embeddings: rows are the vocabulary, so δ is the one-hot code of a row and a the cotangent."""

from __future__ import annotations

import torch
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


@layer_layouts.register(nn.Embedding)
@layer_layouts.register(nn.EmbeddingBag)
def _(module: nn.Embedding | nn.EmbeddingBag) -> tuple[Layout, ...]:
    return (Layout("weight", None, rows=module.num_embeddings, diagonal=True),)


def _check(module: nn.Embedding | nn.EmbeddingBag) -> None:
    if module.max_norm is not None or module.scale_grad_by_freq:
        raise UnsupportedLayerError(f"{type(module).__name__} with max_norm or scale_grad_by_freq is not supported")


def _without_padding(gradients: Tensor, words: Tensor, padding: int | None) -> Tensor:
    """Autograd leaves the padding's row alone."""
    return gradients if padding is None else gradients.masked_fill((words == padding)[..., None], 0)


@layer_factors.register
def _(module: nn.Embedding, call: Call) -> LayerFactors:
    _check(module)
    n = len(call.inputs)
    words, cotangents = call.inputs.reshape(n, -1).long(), call.cotangents.reshape(n, -1, module.embedding_dim)
    return LayerFactors(_without_padding(cotangents, words, module.padding_idx), None, words)


@layer_factors.register
def _(module: nn.EmbeddingBag, call: Call) -> LayerFactors:
    """A bag an example: every word of it receives the bag's cotangent, times its weight or over the words' number."""
    _check(module)
    words, offsets, weights = map(call.argument, range(3), ("input", "offsets", "per_sample_weights"))
    if words.ndim != 2 or offsets is not None or module.mode == "max":
        raise UnsupportedLayerError("EmbeddingBag is supported for inputs [examples, words], as a sum or a mean")
    gradients = call.cotangents[:, None].expand(-1, words.shape[1], -1)
    if weights is not None:
        gradients = gradients * weights[..., None]
    elif module.mode == "mean":
        padding = torch.zeros_like(words) if module.padding_idx is None else words == module.padding_idx
        gradients = gradients / (words.shape[1] - padding.sum(1)).clamp_min(1)[:, None, None]
    return LayerFactors(_without_padding(gradients, words, module.padding_idx), None, words.long())
