"""A model as blocks: which parameters are one, and how a block's matrix is laid out."""

from __future__ import annotations

import contextlib

import pytest
import torch
from nets import mlp, seeded
from torch import Tensor, nn

from ong.curvature import UnsupportedLayerError, evaluating, find_blocks, inner, norm


class Own(nn.Module):
    """A parameter of its own beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.layer = nn.Parameter(torch.ones(2, 3)), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale.sum(0) * self.layer(x)


def test_parameters_that_are_no_layers_are_rows_of_their_own() -> None:
    blocks = find_blocks(nn.Sequential(Own(), nn.PReLU(3), nn.LSTM(3, 2)))
    assert {name: block.shape for name, block in blocks.items()} == {
        "0.scale": (1, 6), "0.layer": (3, 6), "1": (1, 3),
        "2.weight_ih_l0": (1, 24), "2.weight_hh_l0": (1, 16), "2.bias_ih_l0": (1, 8), "2.bias_hh_l0": (1, 8),
    }  # fmt: skip
    assert [name for name, block in blocks.items() if not block.is_diagonal] == ["0.layer", "1"]


def test_a_shared_parameter_is_one_block_and_its_layers_have_the_rest() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    blocks = find_blocks(nn.Sequential(first, second))
    assert {name: block.parameters for name, block in blocks.items()} == {
        "0.weight": [first.weight], "0.bias": [first.bias], "1": [second.bias],
    }  # fmt: skip


def test_named_layers_fall_apart_into_their_parameters() -> None:
    blocks = find_blocks(mlp(5, 4, 3), apart=["0"])
    assert {name: block.shape for name, block in blocks.items()} == {"0.weight": (1, 20), "0.bias": (1, 4), "2": (3, 5)}


def test_frozen_parameters_are_in_no_block_and_a_model_of_them_alone_is_an_error() -> None:
    model = mlp(5, 4, 3)
    model[0].weight.requires_grad_(False)
    model[2].requires_grad_(False)
    assert {name: block.shape for name, block in find_blocks(model).items()} == {"0": (4, 1)}
    with pytest.raises(UnsupportedLayerError, match=r"the model \(Sequential\) has no parameter to train"):
        find_blocks(model.requires_grad_(False))


LAYERS = {
    "linear": lambda: nn.Linear(5, 3),
    "linear without bias": lambda: nn.Linear(5, 3, bias=False),
    "convolution": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "layer norm": lambda: nn.LayerNorm([4, 5]),
    "batch norm": lambda: nn.BatchNorm1d(4),
    "embedding": lambda: nn.Embedding(5, 3),
}


@pytest.mark.parametrize("name", LAYERS)
def test_tensors_laid_out_as_a_matrix_split_into_themselves(name: str) -> None:
    layer = seeded(LAYERS[name](), torch.Generator().manual_seed(0))
    (block,) = find_blocks(layer).values()
    values = block.values()
    assert values.shape == block.shape
    assert all(torch.equal(part, p) for part, p in zip(block.split(values), layer.parameters(), strict=True))
    rows = layer.weight.shape[0] if layer.weight.ndim > 1 and name != "layer norm" else 1
    assert torch.equal(values[:, : layer.weight.numel() // rows], layer.weight.reshape(rows, -1))


def test_gradients_are_dense_and_zero_where_there_is_none() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Linear(4, 3)).double()
    blocks = find_blocks(model)
    model(torch.tensor([1, 3, 3])).sum().backward()
    model[1].bias.grad = None
    dense = torch.zeros(5, 4, dtype=torch.float64)
    dense[1], dense[3] = model[1].weight.sum(0), 2 * model[1].weight.sum(0)
    torch.testing.assert_close(blocks["0"].gradient(), dense)
    torch.testing.assert_close(blocks["1"].gradient()[:, :4], model[1].weight.grad)
    assert not blocks["1"].gradient()[:, 4].any()
    model[1].weight.grad = None
    assert blocks["0"].has_gradient
    assert not blocks["1"].has_gradient


def test_low_precision_is_computed_with_in_float32_and_written_back_in_its_own() -> None:
    model = mlp(5, 4, 3).to(torch.bfloat16)
    block = find_blocks(model)["0"]
    assert block.values().dtype == torch.float32
    assert [part.dtype for part in block.split(block.values())] == [torch.bfloat16] * 2


def test_a_matrix_is_a_copy() -> None:
    model = nn.Linear(5, 3, bias=False)
    (block,) = find_blocks(model).values()
    before = block.values()
    with torch.no_grad():
        model.weight.zero_()
    assert before.all()


class Merging(nn.Linear):
    """Adds an adapter to its weight in eval mode, as some LoRA layers do, and takes it off again."""

    merged = False

    def train(self, mode: bool = True) -> Merging:
        if self.merged == mode:
            self.weight.data += -1.0 if self.merged else 1.0
            self.merged = not mode
        return super().train(mode)


def test_layers_that_merge_weights_in_eval_mode_hear_when_it_ends() -> None:
    model = nn.Sequential(Merging(2, 2), nn.Dropout())
    model[1].eval()
    before = model[0].weight.detach().clone()
    with evaluating(model):
        assert not torch.equal(model[0].weight, before)
    torch.testing.assert_close(model[0].weight.detach(), before)
    assert [module.training for module in model.modules()] == [True, True, False]


def test_evaluating_has_gradients_on_and_puts_every_modules_mode_back_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Dropout(), nn.Linear(4, 3))
    model[1].eval()
    with contextlib.suppress(ZeroDivisionError), torch.no_grad(), evaluating(model):
        assert not any(module.training for module in model.modules())
        assert model(torch.ones(1, 5)).requires_grad
        _ = 1 / 0
    assert [module.training for module in model.modules()] == [True, True, False, True]


def test_inner_products_and_norms_run_over_all_blocks() -> None:
    left, right = ({"a": torch.tensor([[1.0, s]]), "b": torch.tensor([[2.0]])} for s in (2.0, -3.0))
    assert inner(left, right) == 1 - 6 + 4
    assert norm(left) == 3
