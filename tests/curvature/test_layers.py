"""Factors of every layer type and its options against torch.func's Jacobian."""

from __future__ import annotations

import pytest
import torch
from nets import flat, jacobian, mlp, seeded
from torch import Tensor, nn

from ong.curvature import UnsupportedLayerError, find_blocks, record
from ong.projection.rows import rows_from_factors


class Twice(nn.Module):
    """One layer used at two depths."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class Keyword(nn.Module):
    """A layer called with its input as a keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(input=x)


def frozen(model: nn.Module, name: str) -> nn.Module:
    model.get_parameter(name).requires_grad_(False)
    return model


def images(channels: int = 2) -> Tensor:
    return torch.randn(4, channels, 6, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def conv(**options: object) -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3, **options), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))


CASES = {
    "linear": (lambda: mlp(5, 4, 3), vectors(6, 5)),
    "linear without bias": (lambda: nn.Linear(5, 3, bias=False), vectors(6, 5)),
    "linear on sequences": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)), vectors(6, 2, 5)),
    "frozen weight": (lambda: frozen(mlp(5, 4, 3), "0.weight"), vectors(6, 5)),
    "frozen bias": (lambda: frozen(mlp(5, 4, 3), "2.bias"), vectors(6, 5)),
    "layer used twice": (Twice, vectors(6, 5)),
    "input by keyword": (Keyword, vectors(6, 5)),
    "activation in place": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Linear(4, 3)), vectors(6, 5)),
    "activation in place on sequences": (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 3)), vectors(6, 2, 5)),
    "conv2d": (lambda: conv(), images()),
    "conv2d stride, padding, dilation": (lambda: conv(stride=(2, 1), padding=(1, 2), dilation=(1, 2)), images()),
    "conv2d same": (lambda: conv(padding="same", dilation=2), images()),
    "conv2d valid": (lambda: conv(padding="valid"), images()),
    "conv2d circular": (lambda: conv(padding=1, padding_mode="circular"), images()),
    "conv2d reflect": (lambda: conv(padding=2, padding_mode="reflect"), images()),
    "conv2d groups": (lambda: conv(groups=2, padding=1), images()),
    "conv2d depthwise": (lambda: nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.LazyLinear(3)), images(4)),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)), vectors(5, 3, 8)),
    "conv1d even same": (lambda: nn.Sequential(nn.Conv1d(3, 4, 4, padding="same"), nn.Flatten(), nn.LazyLinear(3)), vectors(5, 3, 8)),
    "batch norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)), images()),
    "batch norm on vectors": (lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)), vectors(6, 5)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3)), vectors(6, 5)),
    "layer norm on images": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.LayerNorm([4, 4, 5]), nn.Flatten(), nn.LazyLinear(3)), images()),
    "layer norm without bias": (lambda: nn.Sequential(nn.LayerNorm(5, bias=False), nn.Linear(5, 3)), vectors(6, 4, 5).mean(1)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.LazyLinear(3)), images()),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 3)), torch.arange(20).reshape(5, 4) % 7),
    "embedding with padding": (lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(12, 3)), torch.arange(20).reshape(5, 4) % 7),
    "embedding, one index": (lambda: nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 3)), torch.arange(5) % 7),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_factors_give_the_jacobian_row_by_row(case: str) -> None:
    maker, x = CASES[case]
    model = maker().to(torch.float64)
    model(x)  # lazy layers get their shapes
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    model = seeded(model, torch.Generator().manual_seed(0)).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trainable[name])
    blocks = find_blocks(model)
    expected = jacobian(model, x, blocks)
    with record(blocks) as tape:
        logits = model(x)
    for c in range(logits.shape[1]):
        cotangents = torch.zeros_like(logits)
        cotangents[:, c] = 1
        factors = tape.factors(logits, cotangents)
        found = {name: torch.einsum("ntr,ntc->nrc", part.outputs, part.inputs) for name, part in factors.items()}
        # float64 sums of a few hundred terms: round-off only
        torch.testing.assert_close(flat(found, blocks), expected[:, c], rtol=1e-10, atol=1e-12)


def test_factors_are_kept_dense_only_where_that_is_smaller() -> None:
    model = seeded(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 6 * 6, 3)), torch.Generator())
    blocks = find_blocks(model)
    x = vectors(2, 1, 8, 8)
    with record(blocks) as tape:
        logits = model(x)
    kept = {name: rows_from_factors(f) for name, f in tape.factors(logits, torch.ones_like(logits)).items()}
    # 36 positions × (2 + 10) numbers against 2 × 10; one position × (3 + 73) against 3 × 73
    assert {name: type(rows).__name__ for name, rows in kept.items()} == {"0": "DenseRows", "2": "FactoredRows"}


def test_hooks_are_gone_after_recording() -> None:
    model = mlp(5, 4, 3)
    with record(find_blocks(model)):
        pass
    assert not any(module._forward_hooks for module in model.modules())


def test_batch_norm_in_training_mode_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
    blocks = find_blocks(model)
    with record(blocks) as tape:
        logits = model(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(UnsupportedLayerError, match="mixes the examples"):
        tape.factors(logits, torch.ones_like(logits))


def test_a_layer_that_sees_another_number_of_examples_is_refused() -> None:
    class Merging(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(0, 1)).reshape(*x.shape[:2], 3).sum(1)

    model = Merging()
    with record(find_blocks(model)) as tape:
        logits = model(torch.ones(4, 2, 5))
    with pytest.raises(ValueError, match="leading dimension of 8 for 4 examples"):
        tape.factors(logits, torch.ones_like(logits))
