"""Parameters that are no layer's, or one for all examples: gradients of every example, and the passes they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from nets import dense_gradients, one_by_one, seeded
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint

from ong.curvature import UnsupportedLayerError, cover, evaluating, example_gradients, find_blocks, logits_of

EXAMPLES, VOCABULARY = 6, 7
TOGETHER, COPIES, LOOP = 1, 2, 2 + EXAMPLES
"""Passes: one for the layers and what is broadcast; one for copies of the other parameters, begun at least."""


class Tokens(nn.Module):
    """A class token, places and attention, as a ViT has them, and LayerScale if asked for."""

    def __init__(self, *, scale: bool) -> None:
        super().__init__()
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 4)), nn.Parameter(torch.zeros(1, 4, 4))
        self.attention, self.scale = nn.MultiheadAttention(4, 2, batch_first=True), 1.0
        if scale:
            self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        h = h + self.scale * self.attention(h, h, h, need_weights=False)[0]
        return self.head(h[:, 0])


class Places(nn.Module):
    """Places looked up once for all examples, [1, T], normalised, and read in a way of one's own."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.words, self.places, self.norm = nn.Embedding(VOCABULARY, 4), nn.Embedding(5, 4), nn.LayerNorm(4)
        self.head, self.read = nn.Linear(4, 3), read

    def forward(self, x: Tensor) -> Tensor:
        places = self.norm(self.places(torch.arange(x.shape[1])[None]))
        return self.head(torch.tanh(self.words(x) + self.read(places)).mean(1))


class Own(nn.Module):
    """A parameter [1, 4], read in a way of one's own."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale, self.layer, self.read = nn.Parameter(torch.ones(1, 4)), nn.Linear(4, 3), read

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.tanh(self.read(self.scale) * x))


class Tied(nn.Module):
    """Places looked up without examples first, and an embedding's weights for those of the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places, self.layer = nn.Embedding(VOCABULARY, 4), nn.Embedding(5, 4), nn.Linear(4, 4)
        self.head = nn.Linear(4, VOCABULARY, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.layer(self.words(x) + self.places(torch.arange(x.shape[1])))).mean(1))


class Last(nn.Module):
    """The last state of a recurrent layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Scale(nn.Module):
    """A parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.scale * x)


class Branching(Scale):
    """Looks at its inputs' values."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if bool(x.isfinite().all()) else x


class Recomputing(Scale):
    """Forgets its activations."""

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


class Aside(nn.Module):
    """Keeps the weights where a model is not looked through."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)
        self.aside = [self.scale]

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.aside[0] * x)


def vectors(*shape: int) -> Tensor:
    return torch.randn(EXAMPLES, *shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def words() -> Tensor:
    return torch.arange(EXAMPLES * 5).reshape(EXAMPLES, 5) % VOCABULARY


CASES = {
    "tokens": (lambda: Tokens(scale=False), vectors(3, 4), TOGETHER),
    "places": (lambda: Places(lambda places: places), words(), TOGETHER),
    "places of the first": (lambda: Places(lambda places: places[0]), words(), COPIES),
    "places of the last": (lambda: Places(lambda places: places[-1]), words(), COPIES),
    "places without their axis": (lambda: Places(lambda places: places.reshape(5, 4)), words(), COPIES),
    "a row": (lambda: Own(lambda row: row), vectors(4), TOGETHER),
    "a row's mean": (lambda: Own(lambda row: row.mean(0)), vectors(4), COPIES),
    "the first row": (lambda: Own(lambda row: row[0]), vectors(4), COPIES),
    "the last row": (lambda: Own(lambda row: row[-1]), vectors(4), COPIES),
    "a row's sum": (lambda: Own(lambda row: row.sum(0)), vectors(4), COPIES),
    "a row as a vector": (lambda: Own(lambda row: row.reshape(4)), vectors(4), COPIES),
    "a row in place": (lambda: Own(lambda row: row.detach().mul_(1) + row), vectors(4), LOOP),
    "tokens and scale": (lambda: Tokens(scale=True), vectors(3, 4), COPIES),
    "tied weights": (Tied, words(), COPIES),
    "weight norm": (lambda: nn.Sequential(weight_norm(nn.Linear(4, 3)), nn.Tanh(), nn.Linear(3, 3)), vectors(4), COPIES),
    "spectral norm": (lambda: nn.Sequential(spectral_norm(nn.Linear(4, 3)), nn.Linear(3, 3)), vectors(4), COPIES),
    "LSTM": (lambda: Last(nn.LSTM(4, 3, batch_first=True)), vectors(5, 4), LOOP),
    "looks at its inputs": (Branching, vectors(4), LOOP),
    "recomputes": (Recomputing, vectors(4), LOOP),
    "weights aside": (Aside, vectors(4), LOOP),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_all_examples_take_one_pass_or_two_or_where_that_cannot_be_one_an_example(case: str) -> None:
    make, x, passes = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for spectral_norm's first vectors
        model = seeded(make(), torch.Generator().manual_seed(0))
    shapes: list[tuple[int, ...]] = []

    def run(batch: Any) -> Tensor:
        shapes.append(tuple(batch[0].shape))
        return logits_of(model, batch)

    blocks = cover(model, run, (x,))
    parameters = dict(model.named_parameters())
    shapes.clear()
    found = dense_gradients(model, run, (x,), blocks)  # two sets of cotangents
    assert shapes[0] == x.shape
    assert all(shape == (1, *x.shape[1:]) for shape in shapes[1:])
    assert len(shapes) == passes
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    expected = one_by_one(model, run, (x,), blocks)
    for name in blocks:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)  # float64 round-off


class _WrongAlone(torch.autograd.Function):
    """x ∘ p, whose backward is wrong for one example, as that of torch 2.14's batch normalisation can be."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: Tensor) -> Tensor:
        ctx.save_for_backward(x, p)
        return x * p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, p = ctx.saved_tensors
        return grads[0] * p, (grads[0] * x).sum(0) * (2 if len(x) == 1 else 1)


class WrongAlone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return _WrongAlone.apply(x, self.p)


def test_a_gradient_that_is_another_for_one_example_alone_is_refused() -> None:
    model, x = WrongAlone(), torch.randn(4, 3)
    blocks = find_blocks(model)
    with evaluating(model), pytest.raises(UnsupportedLayerError, match="'p' has another gradient when an example is"):
        list(example_gradients(blocks, model, x, lambda h, _: [torch.ones_like(h)]))
