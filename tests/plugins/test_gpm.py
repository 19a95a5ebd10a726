"""Gradient projection memory against the paper's algorithm on singular vectors, and its guarantee."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import Spy, learner, measured_steps, tasks, with_and_without_a_break
from nets import mlp, seeded
from torch import Tensor, nn

from ong.curvature import inner, norm
from ong.plugins import GPM
from ong.plugins.gpm import extended_basis

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")


def inputs(count: int, width: int, seed: int) -> Tensor:
    """Inputs in columns, of uneven energy."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.logspace(0, -2, width, dtype=torch.float64)[:, None]
    mixed = torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64)).Q
    return mixed @ (scales * torch.randn(width, count, generator=generator, dtype=torch.float64))


def paper(basis: Tensor, r: Tensor, threshold: float) -> Tensor:
    """Eqs. 5, 8 and 9: singular vectors of the residual, until the energy held reaches the threshold."""
    residual = r - basis @ (basis.T @ r)
    u, s, _ = torch.linalg.svd(residual, full_matrices=False)
    held, k = r.square().sum() - s.square().sum(), 0
    while held < threshold * r.square().sum():
        held, k = held + s[k] ** 2, k + 1
    return torch.cat([basis, u[:, :k]], 1)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99, 0.9999])
def test_bases_are_those_of_the_papers_algorithm_task_after_task(threshold: float) -> None:
    ours = theirs = torch.zeros(12, 0, dtype=torch.float64)
    for seed in range(4):
        r = inputs(30, 12, seed)
        ours = extended_basis(ours, r @ r.T / 30, threshold)
        theirs = paper(theirs, r, threshold)
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(ours.T @ ours, torch.eye(ours.shape[1], dtype=torch.float64), atol=1e-12, rtol=0)
        rest = r - ours @ (ours.T @ r)
        assert rest.square().sum() <= (1 - threshold) * r.square().sum() * (1 + 1e-9)


def test_the_first_task_takes_the_leading_singular_vectors_and_no_more_than_needed() -> None:
    r = inputs(30, 12, 0)
    u, s, _ = torch.linalg.svd(r, full_matrices=False)
    basis = extended_basis(torch.zeros(12, 0, dtype=torch.float64), r @ r.T, 0.9)
    k = basis.shape[1]
    share = s.square().cumsum(0) / s.square().sum()
    assert share[k - 1] >= 0.9 > share[k - 2]
    torch.testing.assert_close(basis @ basis.T, u[:, :k] @ u[:, :k].T, rtol=1e-8, atol=1e-9)


def test_a_full_threshold_spans_the_inputs_and_nothing_else() -> None:
    r = inputs(5, 12, 0)
    basis = extended_basis(torch.zeros(12, 0, dtype=torch.float64), r @ r.T, 1.0)
    assert basis.shape == (12, 5)
    torch.testing.assert_close(basis @ (basis.T @ r), r, rtol=0, atol=1e-9)


def test_inputs_that_are_held_already_add_nothing() -> None:
    r = inputs(30, 12, 0)
    basis = extended_basis(torch.zeros(12, 0, dtype=torch.float64), r @ r.T, 0.9)
    assert extended_basis(basis, r @ r.T, 0.9) is basis


def conv_net() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    return seeded(model, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("model", "width"), [(mlp(12, 20, 16, 3), 12), (conv_net(), (2, 3, 3))], ids=["mlp", "conv"])
def test_with_a_full_threshold_all_outputs_on_stored_examples_stay_exactly(model: nn.Module, width: Any) -> None:
    """Not to first order only: W a of every layer stays, so the next layer is fed the same. Biases included."""
    plugin = GPM(threshold=1.0)
    strategy = learner(model, plugin, lr=0.5, epochs=3)
    stream = tasks(3, examples=5, width=width).train_stream
    known: list[tuple[Tensor, Tensor]] = []
    for experience in stream:
        before = [p.detach().clone() for p in model.parameters()]
        strategy.train(experience, eval_streams=[])
        assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        for x, outputs in known:
            torch.testing.assert_close(model(x).detach(), outputs, rtol=0, atol=1e-10)
        x = torch.stack([item[0] for item in experience.dataset])
        known.append((x, model(x).detach()))


@pytest.mark.parametrize("seed", range(6))
def test_every_step_descends_by_its_squared_length(seed: int) -> None:
    before, after = Spy(), Spy()
    strategy = learner(mlp(6, 8, 3, seed=seed), before, GPM(threshold=[0.7, 0.9], seed=seed), after)
    for experience in tasks(2, seed=seed).train_stream:
        strategy.train(experience, eval_streams=[])
    assert norm(after.seen[-1]) < norm(before.seen[-1])
    for g, v in zip(before.seen, after.seen, strict=True):
        torch.testing.assert_close(inner(g, v), norm(v) ** 2, rtol=1e-10, atol=1e-14)


def test_below_a_full_threshold_old_outputs_move_at_first_order() -> None:
    assert max(leak for leak, _ in measured_steps(GPM(threshold=0.8), 0, 30, examples=6)) > 0.01


def test_thresholds_go_by_layer_the_last_for_all_after_it_and_grow_with_tasks() -> None:
    kept = {}
    for name, plugin in {
        "low": GPM(threshold=0.5),
        "first": GPM(threshold=[0.99, 0.5]),
        "named": GPM(threshold=0.5, first_threshold=0.99),
        "growing": GPM(threshold=0.5, threshold_increment=0.49),
    }.items():
        torch.manual_seed(0)
        strategy = learner(mlp(12, 20, 16, 3), plugin)
        sizes = []
        for experience in tasks(2, width=12).train_stream:
            strategy.train(experience, eval_streams=[])
            sizes.append([basis.shape[1] for basis in plugin.bases.values()])
        kept[name] = sizes
    assert kept["first"] == kept["named"]
    assert kept["first"][0][0] > kept["low"][0][0]
    assert kept["first"][0][1:] == kept["low"][0][1:]
    assert kept["growing"][0] == kept["low"][0]
    assert all(more > less for more, less in zip(kept["growing"][1], kept["low"][1], strict=True))


def test_a_break_changes_nothing() -> None:
    whole, resumed = with_and_without_a_break(GPM)
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 0.0}, r"thresholds must be numbers in \(0, 1\]"),
        ({"threshold": [0.9, 1.1]}, r"thresholds must be numbers in \(0, 1\]"),
        ({"threshold": []}, r"thresholds must be numbers in \(0, 1\]"),
        ({"first_threshold": 2.0}, r"thresholds must be numbers in \(0, 1\]"),
        ({"threshold_increment": -0.1}, "must not be negative"),
        ({"examples_per_task": 0}, "examples_per_task must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GPM(**options)


def test_more_thresholds_than_layers_are_refused_with_the_layers_names() -> None:
    with pytest.raises(ValueError, match="3 thresholds were given for 2 layers: 0, 2"):
        learner(mlp(6, 8, 3), GPM(threshold=[0.9, 0.9, 0.9])).train(tasks(1).train_stream[0], eval_streams=[])
