from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from ong.natural.online import NaturalGradient

Problem = Callable[..., tuple[nn.Sequential, Tensor, Tensor]]

CASES: dict[str, dict[str, object]] = {
    "paper": {"trust": False},
    "bounded": {"lr": 3.0},
    "fast": {"lr": 0.25, "momentum": 0.5, "average": 0.9, "balanced": True} | {"factors_every": 2, "refresh_every": 4},
    "ekfac": {"lr": 0.3, "ekfac": True, "average": 0.9, "refresh_every": 3, "momentum": 0.3},
    "fixed": {"damping": 0.3},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_a_run_resumed_from_a_file_continues_to_the_bit(problem: Problem, case: str, dtype: torch.dtype) -> None:
    options = {"warmup": 2, **CASES[case]}

    def step(model: nn.Module, optimizer: NaturalGradient, number: int) -> float:
        rows = torch.arange(6) + 6 * (number % 4)
        return optimizer.step(lambda: (model(x[rows]), y[rows]))

    model, x, y = problem(5, 4, 3, examples=24)
    model, x, y = model.to(dtype), x.to(dtype), y.to(dtype)
    optimizer = NaturalGradient(model, **options)  # type: ignore[arg-type]
    for number in range(5):  # between two refreshes
        step(model, optimizer, number)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    losses = [step(model, optimizer, number) for number in range(5, 12)]
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, _, _ = problem(5, 4, 3, seed=9)
    other = other.to(dtype)
    other.load_state_dict(saved["model"])
    resumed = NaturalGradient(other, **options, seed=77)  # type: ignore[arg-type]
    resumed.load_state_dict(saved["optimizer"])
    assert [step(other, resumed, number) for number in range(5, 12)] == losses
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_loaded_state_shares_no_memory_with_the_one_it_came_from(problem: Problem) -> None:
    model, x, y = problem()
    optimizer = NaturalGradient(model, average=0.9, momentum=0.5, lr=0.3)
    optimizer.step(lambda: (model(x), y))
    saved = optimizer.state_dict()
    before = saved["online"]["curvature"]["moments"]["0"]["inputs_sum"].clone()
    twin, _, _ = problem()
    other = NaturalGradient(twin, average=0.9, momentum=0.5, lr=0.3)
    other.load_state_dict(saved)
    other.step(lambda: (twin(2 * x), y))
    assert torch.equal(saved["online"]["curvature"]["moments"]["0"]["inputs_sum"], before)
