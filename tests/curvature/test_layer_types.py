"""Every layer type of the registry is covered by its function, with autograd's gradient of each example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import dense_gradients, one_by_one, seeded
from torch import Tensor, nn
from torchvision.models.convnext import LayerNorm2d

from ong.curvature import cover, logits_of

EXAMPLES = 9  # one more than cover looks at
WORDS = 7


def vectors(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(EXAMPLES, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(length: int) -> Tensor:
    return torch.randint(0, WORDS, (EXAMPLES, length), generator=torch.Generator().manual_seed(3))


class Net(nn.Module):
    """A layer, called as is or by a function of it and the input, with a linear layer before and after where it fits."""

    def __init__(self, layer: nn.Module, x: Tensor, use: Callable[[Any, Tensor], Tensor] | None) -> None:
        super().__init__()
        self.before = nn.Linear(x.shape[-1], x.shape[-1]) if x.is_floating_point() else nn.Identity()
        self.layer, self.use = layer, use or (lambda layer, x: layer(x))
        with torch.no_grad():
            features = self.use(self.layer.double(), x).flatten(1).shape[1]
        self.head = nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.use(self.layer, self.before(x))).flatten(1))


class TransformersStyle(nn.LayerNorm):
    """Channels first by an option, as in ConvNeXt of transformers."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WithItsOwnForward(nn.LayerNorm):
    """Channels last, as CLIP's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


def restless(norm: nn.Module) -> nn.Module:
    norm.running_mean, norm.running_var = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
    return norm


def attention(**options: Any) -> nn.Module:
    return nn.MultiheadAttention(6, 2, **options)


def to_itself(layer: Any, x: Tensor) -> Tensor:
    return layer(x, x, x, need_weights=False)[0]


def with_weights(layer: Any, x: Tensor) -> Tensor:
    return layer(query=x, key=x, value=x)[0]


def time_first(layer: Any, x: Tensor) -> Tensor:
    return to_itself(layer, x.transpose(0, 1)).transpose(0, 1)


def to_others(layer: Any, x: Tensor) -> Tensor:
    """Queries from the first two positions, keys from the last three, values from their tanh."""
    return layer(x[:, :2], x[:, 2:], torch.tanh(x[:, 2:]))[0]


def to_a_memory(layer: Any, x: Tensor) -> Tensor:
    memory = torch.tanh(x[:, 1:])
    return layer(x[:, :2], memory, memory)[0]


def padded(boolean: bool) -> Callable[[Any, Tensor], Tensor]:
    """The last keys of an example are masked, as many as the sign of its first two numbers says."""

    def use(layer: Any, x: Tensor) -> Tensor:
        gone = torch.zeros(x.shape[:2], dtype=torch.bool)
        gone[:, -1], gone[:, -2] = x[:, 0, 0] > 0, (x[:, 0, 0] > 0) & (x[:, 0, 1] > 0)
        mask = gone if boolean else torch.zeros(gone.shape, dtype=x.dtype).masked_fill_(gone, -2.0)
        return layer(x, x, x, key_padding_mask=mask)[0]

    return use


def causal(layer: Any, x: Tensor) -> Tensor:
    mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
    return layer(x, x, x, attn_mask=mask, is_causal=True, need_weights=False)[0]


def masked_by_head(layer: Any, x: Tensor) -> Tensor:
    """Every example and head has a mask of its own, and some keys are padding."""
    signs = x[..., 0] > 0
    mask = torch.stack([signs, ~signs], 1).flatten(0, 1)[:, None].repeat(1, x.shape[1], 1)
    mask[..., 0] = False
    padding = torch.zeros(x.shape[:2], dtype=torch.bool)
    padding[:, 3] = True
    return layer(x, x, x, attn_mask=mask, key_padding_mask=padding)[0]


def both_ways(layer: Any, x: Tensor) -> Tensor:
    return layer(x[:, :2], x[:, 2:])


Case = tuple[Callable[[], nn.Module], Tensor] | tuple[Callable[[], nn.Module], Tensor, Callable[[Any, Tensor], Tensor]]
odd1, odd2, odd3 = vectors(4, 7), vectors(4, 5, 6), vectors(4, 4, 5, 3)
CASES: dict[str, Case] = {
    "conv1d in groups": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), odd1),
    "conv2d depthwise, circular": (lambda: nn.Conv2d(4, 8, (3, 2), stride=(1, 2), padding=1, padding_mode="circular", groups=4), odd2),
    "conv2d in groups, same": (lambda: nn.Conv2d(4, 6, (3, 4), padding="same", dilation=(2, 1), groups=2, bias=False), odd2),
    "conv3d": (lambda: nn.Conv3d(4, 5, (2, 3, 2), stride=(2, 1, 1), padding=(1, 2, 0), dilation=(1, 2, 1)), odd3),
    "conv3d without bias, same": (lambda: nn.Conv3d(4, 5, (1, 3, 2), padding="same", bias=False), odd3),
    "conv3d depthwise": (lambda: nn.Conv3d(4, 4, 2, stride=2, padding=1, groups=4), odd3),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 3, 3, stride=3, padding=1, output_padding=2, dilation=2), odd1),
    "transposed conv1d, room for a further patch": (lambda: nn.ConvTranspose1d(4, 3, 2, stride=2, output_padding=2, dilation=3), odd1),
    "transposed conv2d": (lambda: nn.ConvTranspose2d(4, 3, (3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)), odd2),
    "transposed conv2d in groups": (lambda: nn.ConvTranspose2d(4, 6, (2, 3), stride=(3, 2), output_padding=(2, 1), groups=2), odd2),
    "transposed conv2d without bias, output size": (lambda: nn.ConvTranspose2d(4, 3, 3, stride=2, bias=False), odd2, lambda layer, x: layer(x, output_size=(12, 13))),
    "transposed conv2d depthwise, output size": (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4), odd2, lambda layer, x: layer(x, output_size=(12, 13))),
    "transposed conv3d": (lambda: nn.ConvTranspose3d(4, 2, (2, 3, 1), stride=(1, 2, 2), padding=(1, 1, 0)), odd3),
    "RMS norm": (lambda: nn.RMSNorm(5), vectors(3, 5)),
    "RMS norm over two axes": (lambda: nn.RMSNorm((3, 5), eps=0.1), vectors(2, 3, 5)),
    "instance norm on sequences": (lambda: nn.InstanceNorm1d(4, affine=True), odd1),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), odd2),
    "instance norm with statistics": (lambda: restless(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)), odd2),
    "instance norm on volumes": (lambda: nn.InstanceNorm3d(4, affine=True), odd3),
    "batch norm on volumes": (lambda: restless(nn.BatchNorm3d(4)), odd3),
    "synchronised batch norm": (lambda: restless(nn.SyncBatchNorm(4)), odd2),
    "layer norm over channels": (lambda: LayerNorm2d(4), odd2),
    "layer norm over channels, as wide as the image": (lambda: LayerNorm2d(4), vectors(4, 5, 4)),
    "layer norm over channels, of a package": (lambda: TransformersStyle(4), odd2),
    "layer norm with a forward of its own": (lambda: WithItsOwnForward(4), vectors(3, 4)),
    "PReLU": (lambda: nn.PReLU(), odd2),
    "PReLU of channels": (lambda: nn.PReLU(4), odd2),
    "PReLU of vectors": (lambda: nn.PReLU(4), vectors(4)),
    "bilinear": (lambda: nn.Bilinear(2, 3, 4), vectors(5), lambda layer, x: layer(x[:, :2], x[:, 2:])),
    "bilinear by name, without bias, on sequences": (lambda: nn.Bilinear(2, 3, 4, bias=False), vectors(3, 5), lambda layer, x: layer(input2=x[..., 2:], input1=x[..., :2])),
    "embedding": (lambda: nn.Embedding(WORDS, 4), words(5)),
    "sparse embedding with padding": (lambda: nn.Embedding(WORDS, 4, sparse=True, padding_idx=2), words(5)),
    "bag of words": (lambda: nn.EmbeddingBag(WORDS, 4, mode="sum"), words(5)),
    "mean of words with padding": (lambda: nn.EmbeddingBag(WORDS, 4, padding_idx=2, sparse=True), words(5)),
    "weighted bag of words": (lambda: nn.EmbeddingBag(WORDS, 4, mode="sum", padding_idx=2), words(5), lambda layer, x: layer(x, per_sample_weights=(x * 0.3 + 0.1).double())),
    "attention": (lambda: attention(batch_first=True), vectors(5, 6), to_itself),
    "attention by name": (lambda: attention(batch_first=True), vectors(5, 6), with_weights),
    "attention, time first": (lambda: attention(), vectors(5, 6), time_first),
    "attention, as many positions as examples": (lambda: attention(), vectors(EXAMPLES, 6), time_first),
    "attention without bias": (lambda: attention(bias=False, batch_first=True), vectors(5, 6), to_itself),
    "attention to others": (lambda: attention(batch_first=True), vectors(5, 6), to_others),
    "attention to a memory": (lambda: attention(batch_first=True), vectors(5, 6), to_a_memory),
    "attention without padding": (lambda: attention(batch_first=True), vectors(5, 6), padded(boolean=True)),
    "attention with less of padding": (lambda: attention(batch_first=True), vectors(5, 6), padded(boolean=False)),
    "causal attention": (lambda: attention(batch_first=True), vectors(5, 6), causal),
    "attention with masks of examples and heads": (lambda: attention(batch_first=True), vectors(5, 6), masked_by_head),
    "transformer layer": (lambda: nn.TransformerEncoderLayer(6, 2, 5, batch_first=True), vectors(5, 6)),
    "transformer decoder": (lambda: nn.TransformerDecoderLayer(6, 2, 5, batch_first=True), vectors(5, 6), both_ways),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_layer_type_is_covered_by_its_function_with_autograds_gradients(case: str) -> None:
    make, x, *use = CASES[case]
    model = seeded(Net(make(), x, use[0] if use else None), torch.Generator().manual_seed(0))

    def run(batch: Any) -> Tensor:
        return logits_of(model, batch)

    blocks = cover(model, run, (x,))
    assert [name for name, block in blocks.items() if block.module is None] == []
    assert sorted(id(p) for block in blocks.values() for p in block.parameters) == sorted(map(id, model.parameters()))
    expected, found = one_by_one(model, run, (x,), blocks), dense_gradients(model, run, (x,), blocks)
    for name in blocks:
        assert expected[name].any()
        # float64 sums of some hundred terms of order one: round-off only
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


APART: dict[str, Case] = {
    "attention to keys of another width": (lambda: attention(kdim=2, vdim=3, batch_first=True), vectors(5, 6), lambda layer, x: layer(x, x[..., :2], x[..., 2:5])[0]),
    "attention with a bias of keys": (lambda: attention(add_bias_kv=True, batch_first=True), vectors(5, 6), to_itself),
    "attention whose weights are used": (lambda: attention(batch_first=True), vectors(5, 6), lambda layer, x: torch.cat(layer(x, x, x), 2)),
    "attention to nothing": (lambda: attention(add_zero_attn=True, batch_first=True), vectors(5, 6), to_itself),
    "largest of words": (lambda: nn.EmbeddingBag(WORDS, 4, mode="max"), words(5)),
    "bags with offsets": (lambda: nn.EmbeddingBag(WORDS, 4, mode="sum"), words(5), lambda layer, x: layer(x.flatten(), torch.arange(len(x)) * x.shape[1])),
    "embedding whose weights are renormalised": (lambda: nn.Embedding(WORDS, 4, max_norm=0.5), words(5)),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_a_call_of_another_kind_has_autograds_gradients_by_another_way(case: str) -> None:
    make, x, *use = APART[case]
    model = seeded(Net(make(), x, use[0] if use else None), torch.Generator().manual_seed(0))

    def run(batch: Any) -> Tensor:
        return logits_of(model, batch)

    blocks = cover(model, run, (x,))
    assert any(block.module is None for block in blocks.values())
    assert sorted(id(p) for block in blocks.values() for p in block.parameters) == sorted(map(id, model.parameters()))
    expected, found = one_by_one(model, run, (x,), blocks), dense_gradients(model, run, (x,), blocks)
    for name in blocks:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)  # float64 round-off
