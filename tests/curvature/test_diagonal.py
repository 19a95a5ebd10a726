"""The diagonal of the Fisher, of layers and of everything else, against the definition."""

from __future__ import annotations

import pytest
import torch
from nets import cotangents_of, diagonal_blocks, fisher, flat, jacobian, mlp, one_by_one, seeded
from torch import Tensor, nn

from ong.curvature import DiagonalBlock, diagonal_fisher, find_blocks, logits_of
from ong.errors import NotFiniteError


class Own(nn.Module):
    """A parameter of its own between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.scale = nn.Conv1d(1, 2, 3), nn.Parameter(torch.ones(2, 4))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.scale * torch.tanh(self.conv(x[:, None]))).flatten(1))


X = torch.randn(9, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MODELS = {"mlp": lambda: mlp(6, 4, 3), "own": lambda: seeded(Own(), torch.Generator().manual_seed(0))}


@pytest.mark.parametrize("name", MODELS)
def test_it_is_the_diagonal_of_the_fisher(name: str) -> None:
    model = MODELS[name]()
    blocks = find_blocks(model)
    expected = diagonal_blocks(fisher(jacobian(model, X, blocks), model(X)), blocks)
    found = diagonal_fisher(model, [(X[:5],), (X[5:],)], fisher="exact")
    assert found.keys() == blocks.keys()
    for layer, diagonal in found.items():
        torch.testing.assert_close(diagonal.flatten(), expected[layer].diagonal(), rtol=1e-12, atol=1e-16)


def test_gradients_are_squared_example_by_example() -> None:
    model = MODELS["own"]()
    y = torch.arange(9) % 3
    blocks = find_blocks(model)
    found = diagonal_fisher(model, [(X, y)], fisher="empirical")
    squares = {layer: torch.zeros(*block.shape, dtype=torch.float64) for layer, block in blocks.items()}
    for n in range(9):
        model.zero_grad()
        nn.functional.cross_entropy(model(X[n : n + 1]), y[n : n + 1]).backward()
        for layer, block in blocks.items():
            squares[layer] += block.gradient().square() / 9
    for layer in blocks:
        torch.testing.assert_close(found[layer], squares[layer], rtol=1e-12, atol=1e-16)


def test_large_intermediates_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS["own"]()
    whole = diagonal_fisher(model, [(X,)], fisher="exact")
    monkeypatch.setattr("ong.curvature.squares._CHUNK", 1)
    for layer, diagonal in diagonal_fisher(model, [(X,)], fisher="exact").items():
        torch.testing.assert_close(diagonal, whole[layer], rtol=1e-12, atol=0)


def test_blocks_that_took_no_part_are_absent() -> None:
    model = nn.ModuleDict({"a": mlp(6, 3), "b": mlp(6, 3)})
    found = diagonal_fisher(model, [(X,)], forward=lambda batch: model["a"](batch[0]))
    assert list(found) == ["a.0"]


def test_its_operator_is_the_function_of_the_diagonal() -> None:
    block = DiagonalBlock(torch.tensor([[1.0, 2.0], [0.0, 4.0]]))
    image = block.operator(lambda values: 1 / (values + 1))(torch.ones(3, 2, 2))
    assert torch.equal(image, torch.tensor([[0.5, 1 / 3], [1.0, 0.2]]).expand(3, 2, 2))
    assert block.trace() == 7


def test_no_examples_and_numbers_that_are_not_finite_are_refused() -> None:
    model = mlp(6, 4, 3)
    with pytest.raises(ValueError, match="at least one example"):
        diagonal_fisher(model, [])
    bad = X.clone()
    bad[2, 1] = torch.inf
    with pytest.raises(NotFiniteError, match="layer '0' are not finite"):
        diagonal_fisher(model, [(bad,)], blocks=find_blocks(model))


def test_oracles_of_the_tests_agree_with_each_other() -> None:
    """One example at a time by autograd, and the Jacobian by torch.func, from which most tests here start."""
    model = MODELS["own"]()
    blocks = find_blocks(model)
    rows = one_by_one(model, lambda batch: logits_of(model, batch), (X,), blocks)
    u = cotangents_of(model(X).detach())
    expected = torch.einsum("snc,ncp->snp", u, jacobian(model, X, blocks)).flatten(0, 1)
    torch.testing.assert_close(flat(rows, blocks), expected, rtol=1e-10, atol=1e-13)
