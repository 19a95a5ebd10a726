"""The kinds of direction are the gradients that they name, for every model and likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from nets import flat, mlp, seeded
from torch import Tensor, nn

from ong.curvature import Likelihood, find_blocks
from ong.errors import UnknownNameError, UserError
from ong.projection import DirectionKind, DirectionMemory, collect_directions, direction_cotangents


class Own(nn.Module):
    """An embedding and a parameter of its own before a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.scale, self.head = nn.Embedding(6, 4), nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.scale * self.words(x).mean(1)))


def inputs(*shape: int) -> Tensor:
    return torch.randn(4, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


Y = torch.tensor([2, 0, 1, 1])
MODELS: dict[str, Any] = {
    "mlp": (lambda: mlp(7, 5, 3), inputs(7)),
    "own": (lambda: seeded(Own(), torch.Generator().manual_seed(0)), torch.arange(12).reshape(4, 3) % 6),
}
OUTPUTS: dict[str, Any] = {
    "gtl": lambda h, y: [h[y]],
    "ave": lambda h, y: [h.mean()],
    "all": lambda h, y: [*h],
    "loss": lambda h, y: [F.cross_entropy(h[None], y[None])],
}


def check(model: nn.Module, batch: Any, kind: Any, scalars: Any, likelihood: Likelihood = "categorical") -> None:
    """Hold the directions against one backward pass for each scalar of each example, sets first."""
    blocks = find_blocks(model)
    memory = DirectionMemory(collect_directions(model, batch, kind=kind, likelihood=likelihood, blocks=blocks))
    expected = []
    for n in range(4):
        count = len(scalars(model(batch[0][n : n + 1])[0], batch[1][n]))
        for c in range(count):
            model.zero_grad()
            scalars(model(batch[0][n : n + 1])[0], batch[1][n])[c].backward()
            expected.append((c, flat({name: block.gradient() for name, block in blocks.items()}, blocks)))
    expected.sort(key=lambda pair: pair[0])
    found = [flat(memory.combine(unit), blocks) for unit in torch.eye(len(memory), dtype=torch.float64)]
    torch.testing.assert_close(torch.stack(found), torch.stack([g for _, g in expected]), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("name", MODELS)
def test_directions_are_the_gradients_they_name(name: str, kind: DirectionKind) -> None:
    maker, x = MODELS[name]
    check(maker(), (x, Y), kind, OUTPUTS[kind])


@pytest.mark.parametrize(
    ("likelihood", "loss"),
    [("bernoulli", F.binary_cross_entropy_with_logits), ("gaussian", lambda h, y: F.mse_loss(h, y) / 2)],
)
def test_the_loss_is_that_of_the_likelihood_and_one_output_takes_plain_targets(likelihood: Any, loss: Any) -> None:
    targets = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    check(mlp(7, 5, 1), (inputs(7), targets), "loss", lambda h, y: [loss(h, y[None])], likelihood)


@pytest.mark.parametrize("targets", [torch.zeros(4), torch.zeros(4, 1).double(), torch.tensor([1, 0, 1, 1])])
def test_of_one_output_gtl_is_its_gradient_whatever_the_targets(targets: Tensor) -> None:
    check(mlp(7, 5, 1), (inputs(7), targets), "gtl", lambda h, y: [h[0]])
    assert all(torch.equal(u, torch.ones(4, 1)) for u in direction_cotangents(torch.zeros(4, 1), None, "gtl"))


def test_they_are_taken_in_eval_mode() -> None:
    model = nn.Sequential(nn.Linear(7, 5), nn.Dropout(0.5), nn.Linear(5, 3)).double()
    found = [
        collect_directions(model, (inputs(7), Y), blocks=find_blocks(model))["0"].dot(torch.ones(5, 8).double())
        for _ in range(2)
    ]
    assert torch.equal(*found)
    assert model.training


@pytest.mark.parametrize(
    ("kind", "targets", "message"),
    [
        ("gtl", None, "directions='gtl' takes the logit of each example's class, and there are no targets; use"),
        ("gtl", torch.zeros(4, 3), r"targets of torch.float32 and shape \[4, 3\]; use directions='all' or 'ave'"),
        ("gtl", torch.tensor([0, 1, 2, 3]), "a label is 3, and the model has 3 outputs"),
        ("loss", None, "directions='loss' needs targets, and the batches have none"),
        ("loss", torch.zeros(4, 2), r"categorical targets are class numbers \[examples\], got \[4, 2\]"),
    ],
)
def test_targets_that_a_kind_cannot_use_are_refused(kind: DirectionKind, targets: Tensor | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        next(direction_cotangents(torch.zeros(4, 3), targets, kind))


def test_an_unknown_kind_of_direction_is_refused_with_the_nearest() -> None:
    model = mlp(7, 5, 3)
    with pytest.raises(UnknownNameError, match="did you mean 'gtl'"):
        collect_directions(model, (inputs(7), Y), kind="glt", blocks=find_blocks(model))  # type: ignore[arg-type]
