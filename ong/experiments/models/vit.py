"""A vision transformer for small images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ong.errors import UserError
from ong.experiments.models.networks import Network

__all__ = ["vit_tiny"]

_INITIAL_STD = 0.02
_EPSILON = 1e-6  # of the layer norms, as in the paper's code


def vit_tiny(
    shape: Sequence[int],
    classes: int,
    *,
    patch: int = 4,
    width: int = 192,
    depth: int = 6,
    attention_heads: int = 3,
) -> Network:
    """Return a vision transformer: patches, learnt positions, a class token, blocks with the norm before each part.

    Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021, equations 1 to 4; width and heads are those of
    DeiT-tiny (Touvron et al., 2021), half its depth. 2.7 M parameters and 65 tokens for images of 32×32. Queries, keys
    and values come from one ``nn.Linear``, so that every matrix in it is a plain layer.

    Args:
        shape: channels, height and width of the images.
        classes: number of outputs.
        patch: side of a patch, which divides height and width.
        width: numbers a token has.
        depth: number of blocks.
        attention_heads: number of heads of attention, which divides the width.

    Raises:
        UserError: a number below 1, or one that does not divide as said.
    """
    channels, height, breadth = shape
    if min(patch, width, depth, attention_heads) < 1 or width % attention_heads:
        raise UserError(
            "model vit-tiny: all numbers must be at least 1 and attention_heads divide width, got "
            f"patch={patch}, width={width}, depth={depth}, attention_heads={attention_heads}"
        )
    if height % patch or breadth % patch:
        raise UserError(f"model vit-tiny: patch = {patch} does not divide images of {height} × {breadth}")
    tokens = 1 + (height // patch) * (breadth // patch)
    network = Network(
        _Tokens(channels, tokens, patch, width),
        *(_Block(width, attention_heads) for _ in range(depth)),
        nn.LayerNorm(width, _EPSILON),
        _ClassToken(),
        nn.Linear(width, classes),
    )
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=_INITIAL_STD)
            nn.init.zeros_(module.bias)
    return network


class _Tokens(nn.Module):
    """Images to tokens ``[N, 1 + patches, width]``, the class token first, positions added."""

    def __init__(self, channels: int, tokens: int, patch: int, width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, tokens, width), std=_INITIAL_STD))

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).mT
        return torch.cat([self.class_token.expand(len(images), -1, -1), patches], 1) + self.positions


class _Attention(nn.Module):
    """softmax(Q Kᵀ/√d) V by head, written out: it can be differentiated twice, and forward."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        weights = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
        found: Tensor = self.out((weights @ values).transpose(1, 2).flatten(2))
        return found


class _Block(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width, _EPSILON), _Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, _EPSILON)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        found: Tensor = x + self.mlp(self.norm2(x))
        return found


class _ClassToken(nn.Module):
    """The first token of each image."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]
