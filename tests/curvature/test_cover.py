"""Per-example gradients of every parameter, of models of many kinds, against autograd one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import Largest, Run, dense_gradients, mlp, one_by_one, seeded
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.utils.checkpoint import checkpoint
from torchvision.models import VisionTransformer
from torchvision.models.convnext import LayerNorm2d

from ong.curvature import Block, UnsupportedLayerError, cover, logits_of
from ong.errors import NotFiniteError, UserError
from ong.projection import LookupRows, collect_directions

EXAMPLES = 9  # one more than cover looks at
VOCABULARY = 7


class From(nn.Module):
    """Modules and parameters by name, and a function of them and the input as forward."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


def vectors(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(EXAMPLES, *shape, generator=generator, dtype=torch.float64)


def words(length: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (EXAMPLES, length), generator=torch.Generator().manual_seed(3))


def zeros(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(*shape))


def convolution(groups: int) -> nn.Module:
    layers = nn.Conv2d(4, 8, 3, groups=groups, padding=1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(72, 3)
    return nn.Sequential(*layers)


def batch_normed() -> nn.Module:
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 4)
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.Tanh(), nn.Flatten(), nn.Linear(36, 3))


def positions(model: Any, x: Tensor, indices: Tensor) -> Tensor:
    return model.head(torch.tanh(model.words(x) + model.places(indices)).mean(1))


def with_positions(indices: Callable[[Tensor], Tensor], length: int) -> tuple[nn.Module, Tensor]:
    """Word embeddings plus learned embeddings of places, looked up by indices of one's own choice."""
    model = From(
        lambda m, x: positions(m, x, indices(x)),
        words=nn.Embedding(VOCABULARY, 4), places=nn.Embedding(length, 4), head=nn.Linear(4, 3),
    )  # fmt: skip
    return model, words(length)


def with_class_token(model: Any, x: Tensor) -> Tensor:
    tokens = torch.cat([model.token.expand(len(x), 1, -1), model.layer(x)], 1) + model.places
    return model.head(torch.tanh(tokens).mean(1))


def attended(model: Any, x: Tensor) -> Tensor:
    return model.head((x + model.attention(x, x, x, need_weights=False)[0]).mean(1))


def mixture(model: Any, x: Tensor) -> Tensor:
    """Each example goes to the expert of its first input's sign, and only to that one."""
    h = torch.tanh(model.first(x))
    out = torch.zeros(len(x), 3, dtype=x.dtype)
    for sign, expert in ((x[:, 0] > 0, model.left), (x[:, 0] <= 0, model.right)):
        out = out.index_put((sign,), expert(h[sign]))
    return out + model.head(h)


def in_bfloat16(model: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model.body(x).float()


def frozen(model: nn.Module, *names: str) -> nn.Module:
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    return model


def order(x: Tensor) -> Tensor:
    return x[:, 0].argsort()


def hooked(model: nn.Module) -> nn.Module:
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def tied() -> nn.Module:
    words, head = nn.Embedding(VOCABULARY, 4), nn.Linear(4, VOCABULARY)
    head.weight = words.weight
    return From(lambda m, x: m.head(torch.tanh(m.words(x).mean(1))), words=words, head=head)


def transformer() -> nn.Module:
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=6, mlp_dim=5, num_classes=3
    )


Made = Callable[[], tuple[nn.Module, Tensor]]
CASES: dict[str, Made] = {
    "mlp": lambda: (mlp(5, 4, 3), vectors(5)),
    "convolution": lambda: (convolution(1), vectors(4, 6, 6)),
    "convolution in groups": lambda: (convolution(2), vectors(4, 6, 6)),
    "depthwise convolution": lambda: (convolution(4), vectors(4, 6, 6)),
    "transposed convolution": lambda: (nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)), vectors(2, 3, 3)),
    "batch norm": lambda: (batch_normed(), vectors(2, 5, 5)),
    "layer norm on sequences": lambda: (nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Flatten(), nn.Linear(8, 3)), vectors(2, 5)),
    "layer norm over channels": lambda: (nn.Sequential(nn.Conv2d(2, 4, 3), LayerNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)), vectors(2, 5, 5)),
    "group norm": lambda: (nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)), vectors(2, 5, 5)),
    "PReLU": lambda: (nn.Sequential(nn.Linear(5, 4), nn.PReLU(4), nn.Linear(4, 3)), vectors(5)),
    "embedding": lambda: (nn.Sequential(nn.Embedding(VOCABULARY, 4), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)), words(5)),
    "sparse embedding": lambda: (nn.Sequential(nn.Embedding(VOCABULARY, 4, sparse=True), nn.Tanh(), nn.Flatten(), nn.Linear(20, 3)), words(5)),
    "bag of embeddings": lambda: (nn.Sequential(nn.EmbeddingBag(VOCABULARY, 4), nn.Tanh(), nn.Linear(4, 3)), words(5)),
    "places [T]": lambda: with_positions(lambda x: torch.arange(x.shape[1]), 5),
    "places [1, T]": lambda: with_positions(lambda x: torch.arange(x.shape[1])[None], 5),
    "places [T], as many as cover looks at": lambda: with_positions(lambda x: torch.arange(x.shape[1]), 8),
    "places [T], as many as examples": lambda: with_positions(lambda x: torch.arange(x.shape[1]), EXAMPLES),
    "places [N, T]": lambda: with_positions(lambda x: torch.arange(x.shape[1]).expand_as(x), 5),
    "class token and places": lambda: (From(with_class_token, layer=nn.Linear(5, 4), token=zeros(1, 1, 4), places=zeros(1, 4, 4), head=nn.Linear(4, 3)), vectors(3, 5)),
    "attention": lambda: (From(attended, attention=nn.MultiheadAttention(4, 2, batch_first=True), head=nn.Linear(4, 3)), vectors(3, 4)),
    "vision transformer": lambda: (transformer(), vectors(3, 8, 8)),
    "LSTM": lambda: (From(lambda m, x: m.head(m.lstm(x)[0][:, -1]), lstm=nn.LSTM(4, 3, batch_first=True), head=nn.Linear(3, 3)), vectors(4, 4)),
    "GRU, time first": lambda: (From(lambda m, x: m.head(m.gru(x.transpose(0, 1))[0][-1]), gru=nn.GRU(4, 3), head=nn.Linear(3, 3)), vectors(4, 4)),
    "weight norm": lambda: (nn.Sequential(weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)), vectors(5)),
    "spectral norm": lambda: (nn.Sequential(spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3)), vectors(5)),
    "tied weights": lambda: (tied(), words(5)),
    "weights that other code reads": lambda: (From(lambda m, x: F.linear(torch.tanh(m.layer(x)), m.layer.weight.T), layer=nn.Linear(5, 4)), vectors(5)),
    "weights that only other code reads": lambda: (From(lambda m, x: F.linear(x, m.layer.weight, m.layer.bias), layer=nn.Linear(5, 3)), vectors(5)),
    "a layer used twice": lambda: (From(lambda m, x: m.head(torch.tanh(m.layer(torch.tanh(m.layer(x))))), layer=nn.Linear(5, 5), head=nn.Linear(5, 3)), vectors(5)),
    "experts": lambda: (From(mixture, first=nn.Linear(5, 4), left=nn.Linear(4, 3), right=nn.Linear(4, 3), head=nn.Linear(4, 3)), vectors(5)),
    "layers that work time first": lambda: (From(lambda m, x: m.head(torch.tanh(m.layer(x.transpose(0, 1))).sum(0)), layer=nn.Linear(5, 4), head=nn.Linear(4, 3)), vectors(4, 5)),
    "time first, as long as cover looks at": lambda: (From(lambda m, x: m.head(torch.tanh(m.layer(x.transpose(0, 1))).sum(0)), layer=nn.Linear(5, 4), head=nn.Linear(4, 3)), vectors(8, 5)),
    "layers that see examples and places as one": lambda: (From(lambda m, x: m.layer(x.flatten(0, 1)).reshape(len(x), -1, 3).sum(1), layer=nn.Linear(5, 3)), vectors(2, 5)),
    "examples sorted on the way": lambda: (From(lambda m, x: m.head(torch.tanh(m.layer(x[order(x)]))[order(x).argsort()]), layer=nn.Linear(5, 4), head=nn.Linear(4, 3)), vectors(5)),
    "a hook that changes outputs": lambda: (hooked(mlp(5, 4, 3)), vectors(5)),
    "checkpointing": lambda: (From(lambda m, x: m.head(checkpoint(m.body, x, use_reentrant=False)), body=mlp(5, 4, 3), head=nn.Linear(3, 3)), vectors(5)),
    "a frozen bias": lambda: (frozen(mlp(5, 4, 3), "0.bias"), vectors(5)),
    "a frozen weight": lambda: (frozen(mlp(5, 4, 3), "2.weight"), vectors(5)),
    "a parameter that does nothing": lambda: (From(lambda m, x: m.layer(x), layer=nn.Linear(5, 3), idle=zeros(4)), vectors(5)),
    "one output [N]": lambda: (From(lambda m, x: m.layer(x)[:, 0], layer=nn.Linear(5, 1)), vectors(5)),
}  # fmt: skip
AS_LAYERS = {
    "mlp", "convolution", "convolution in groups", "depthwise convolution", "batch norm", "layer norm on sequences",
    "group norm", "embedding", "places [N, T]", "a layer used twice", "a frozen bias", "a frozen weight",
    "checkpointing", "one output [N]", "places [1, T]", "transposed convolution", "layer norm over channels", "PReLU", "attention",
    "sparse embedding", "bag of embeddings",
}  # fmt: skip


def made(case: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # for spectral_norm's first vectors
        model, x = CASES[case]()
    trainable = [p.requires_grad for p in model.parameters()]
    model = seeded(model, torch.Generator().manual_seed(0))
    for parameter, requires_grad in zip(model.parameters(), trainable, strict=True):
        parameter.requires_grad_(requires_grad)
    return model, x


def run_of(model: nn.Module) -> Run:
    return lambda batch: logits_of(model, batch)


def parameters_of(blocks: dict[str, Block]) -> list[int]:
    return sorted(id(p) for block in blocks.values() for p in block.parameters)


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_is_in_one_block_and_has_autograds_gradient_of_each_example(case: str) -> None:
    model, x = made(case)
    run = run_of(model)
    blocks = cover(model, run, (x,))
    assert parameters_of(blocks) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert all(block.module is not None for block in blocks.values()) == (case in AS_LAYERS)
    expected = one_by_one(model, run, (x,), blocks)
    found = dense_gradients(model, run, (x,), blocks)
    for name in blocks:
        # float64 sums of some hundred terms of order one: round-off only
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)


def test_under_autocast_gradients_are_autograds_to_the_rounding_of_bfloat16() -> None:
    body = nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 3))
    model = seeded(From(in_bfloat16, body=body), torch.Generator().manual_seed(0), torch.float32)
    x, run = vectors(5).float(), run_of(model)
    blocks = cover(model, run, (x,))
    assert all(block.module is not None for block in blocks.values())
    expected, found = one_by_one(model, run, (x,), blocks), dense_gradients(model, run, (x,), blocks)
    for name in blocks:
        # A product or two in 8 bits: 2^-8 of the largest number each, and the bias's sum rounded once more.
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0.02 * float(expected[name].abs().max()))


def test_experts_that_no_example_looked_at_was_sent_to_are_covered_all_the_same() -> None:
    parts = {name: nn.Linear(4, 3) for name in ("left", "right", "head")}
    model = seeded(From(mixture, first=nn.Linear(5, 4), **parts), torch.Generator().manual_seed(0))
    x, run = vectors(5), run_of(model)
    x[:, 0] = -x[:, 0].abs()
    blocks = cover(model, run, (x,))  # all examples go right
    assert [name for name, block in blocks.items() if block.alone] == ["left"]
    x[3, 0] = 1
    expected, found = one_by_one(model, run, (x,), blocks), dense_gradients(model, run, (x,), blocks)
    for name in blocks:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)  # float64 round-off
    assert expected["left"].any()


def test_a_wide_depthwise_convolution_makes_nothing_larger_than_its_images() -> None:
    convolution = nn.Conv2d(96, 96, 7, padding=3, groups=96)
    model = nn.Sequential(convolution, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 3))
    model, run = seeded(model, torch.Generator().manual_seed(0)), run_of(model)
    x = torch.randn(2, 96, 32, 32, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    blocks = cover(model, run, (x,))
    with Largest() as largest:
        found = dense_gradients(model, run, (x,), blocks)
    assert largest.numbers == x.numel() * 38**2 // 32**2  # the images with their padding
    expected = one_by_one(model, run, (x,), blocks)
    for name in blocks:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)  # float64 round-off


def test_only_the_parameters_asked_for_are_covered() -> None:
    model = mlp(5, 4, 3)
    among = [model[0].bias, model[2].weight, model[2].bias]
    blocks = cover(model, run_of(model), (vectors(5),), among=among)
    assert parameters_of(blocks) == sorted(map(id, among))


def mixing(model: Any, x: Tensor) -> Tensor:
    return model.layer(x - x.mean(0))


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3))


def drawing(model: Any, x: Tensor) -> Tensor:
    return model.layer(F.dropout(x, training=True))


@pytest.mark.parametrize(
    "model",
    [without_statistics(), From(mixing, layer=nn.Linear(5, 3)), From(drawing, layer=nn.Linear(5, 3))],
    ids=["batch norm without statistics", "inputs centred in the batch", "dropout in eval mode"],
)
@pytest.mark.parametrize("examples", [3, EXAMPLES])
def test_outputs_that_depend_on_the_batch_are_refused_with_the_reason(model: nn.Module, examples: int) -> None:
    with pytest.raises(UnsupportedLayerError, match="other outputs when other examples share its batch, in eval mode"):
        cover(model.double(), run_of(model), (vectors(5)[:examples],))


@pytest.mark.parametrize(
    ("forward", "what"),
    [
        (lambda m, x: (m.layer(x), x), "a tuple"),
        (lambda m, x: {"out": m.layer(x)}, "a dict"),
        (lambda m, x: m.layer(x)[:, None], r"outputs of shape \[8, 1, 3\] for 8 examples"),
        (lambda m, x: m.layer(x).sum(0), r"outputs of shape \[3\] for 8 examples"),
    ],
)
def test_outputs_that_are_no_logits_are_refused_with_what_to_pass(forward: Any, what: str) -> None:
    model = From(forward, layer=nn.Linear(5, 3)).double()
    with pytest.raises(UserError, match=f"the model returns {what}, where .* is expected; pass logits=FUNCTION"):
        cover(model, run_of(model), (vectors(5),))


def test_a_layer_that_diverged_is_named() -> None:
    model = mlp(5, 4, 3)
    with torch.no_grad():
        model[2].weight[1, 2] = torch.nan
    with pytest.raises(NotFiniteError, match=r"the weights '2.weight' are not finite"):
        cover(model, run_of(model), (vectors(5),))
    model = mlp(5, 4, 3)
    with pytest.raises(NotFiniteError, match="the outputs are not finite"):
        cover(model, run_of(model), (vectors(5) * torch.nan,))


class Checkpointed(nn.Module):
    """A block whose activations are worked out anew in the backward pass."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.block, self.head, self.how = nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2), use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, x.requires_grad_(), use_reentrant=self.how))


class Complex(nn.Module):
    """A parameter of complex numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 2, dtype=torch.complex64))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex64) @ self.w).real


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Checkpointed(True), "pass use_reentrant=False"),
        (Complex(), "'w' holds complex numbers"),
        (nn.Sequential(nn.LazyLinear(2)), "'0.weight' has no shape yet; run the model on a batch"),
    ],
    ids=["reentrant", "complex", "lazy"],
)
def test_what_has_no_gradient_of_an_example_is_refused_with_what_to_do(model: nn.Module, message: str) -> None:
    with pytest.raises(UserError, match=message):
        cover(model, model, torch.randn(6, 4))


def test_checkpointed_activations_are_covered() -> None:
    assert len(cover(Checkpointed(False), Checkpointed(False), torch.randn(6, 4))) == 2


def test_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cover(model, run_of(model), (vectors(5),))
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


class TokenExperts(nn.Module):
    """An expert for tokens of large first number, called with none of a batch's, or not at all, where there is none."""

    def __init__(self, *, guarded: bool) -> None:
        super().__init__()
        self.expert, self.last, self.guarded = nn.Linear(4, 4), nn.Linear(4, 3), guarded

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, 4)
        sent = tokens[:, 0] > 2
        found = tokens.clone()
        if sent.any() or not self.guarded:
            found[sent] = self.expert(tokens[sent]).tanh()
        return self.last(found.reshape(x.shape).mean(1))


@pytest.mark.parametrize("guarded", [False, True])
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_an_expert_that_gets_some_tokens_has_autograds_gradients_though_none_was_seen_before(
    tokens: int, guarded: bool
) -> None:
    """Two tokens each of four examples of eight are as many as there are examples."""
    generator = torch.Generator().manual_seed(0)
    model = seeded(TokenExperts(guarded=guarded), generator)
    x = torch.randn(16, 3, 4, generator=generator, dtype=torch.float64).clamp(-1.9, 1.9)
    x[8:12, :tokens, 0] = 3
    run = run_of(model)
    blocks = cover(model, run, (x[:8],))  # no token is sent to the expert
    unreached = dense_gradients(model, run, (x[:8],), blocks)
    assert not unreached.get("expert", torch.zeros(1)).any()
    found, expected = one_by_one(model, run, (x[8:],), blocks), dense_gradients(model, run, (x[8:],), blocks)
    for name in blocks:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-12)
    assert expected["expert"].any()


def words_or_numbers(model: Any, x: Tensor) -> Tensor:
    return model.head(x if x.is_floating_point() else model.words(x).mean(1))


def test_an_embedding_that_was_not_reached_is_kept_as_the_rows_looked_up_when_it_is() -> None:
    model = From(words_or_numbers, words=nn.Embedding(3000, 4), head=nn.Linear(4, 3))
    model, tokens = seeded(model, torch.Generator().manual_seed(0)), torch.tensor([[5, 5, 7], [2999, 0, 5]])
    run = run_of(model)
    blocks = cover(model, run, (vectors(4),))
    assert blocks["words"].alone
    with Largest() as largest:
        found = collect_directions(model, (tokens, torch.tensor([0, 2])), blocks=blocks, forward=run)["words"]
    assert largest.numbers == 3000 * 4
    assert isinstance(found, LookupRows)
    assert found.indices.tolist() == [[5, 7, 0], [0, 5, 2999]]  # the last place of the first is padding
    for n, y in enumerate((0, 2)):
        (expected,) = torch.autograd.grad(run((tokens[n : n + 1],))[0, y], [model.words.weight])
        torch.testing.assert_close(found.dense(torch.tensor([n]))[0], expected, rtol=1e-12, atol=0)


class Sorting(nn.Module):
    """Recurrent nets are fed so: the longest example first; outputs are put back in order."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        order = x[:, 0].argsort()
        h = self.norm(torch.tanh(self.layer(x[order])))
        return self.head(h[order.argsort()])


@pytest.mark.parametrize("descending", [None, False, True])
def test_a_model_that_sorts_examples_is_seen_to_whatever_their_order_is(descending: bool | None) -> None:
    model = seeded(Sorting(), torch.Generator().manual_seed(0))
    x, run = vectors(5), run_of(model)
    first = x if descending is None else x[x[:, 0].argsort(descending=descending)]
    blocks = cover(model, run, (first,))
    assert list(blocks) == ["layer.weight", "layer.bias", "norm.weight", "norm.bias", "head"]
    expected, found = one_by_one(model, run, (x,), blocks), dense_gradients(model, run, (x,), blocks)
    for name in blocks:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-10, atol=1e-10)  # float64 round-off
