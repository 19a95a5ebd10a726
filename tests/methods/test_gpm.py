"""Gradient projection memory against the paper's algorithm on singular vectors, and its guarantee."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from methods.matrices import EXACT, Learner, leak, task, tasks, vectors
from nets import mlp, seeded
from torch import Tensor, nn

from ong.methods import GPM
from ong.methods.gpm import extended_basis


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


def empty(width: int = 12) -> Tensor:
    return torch.zeros(width, 0, dtype=torch.float64)


@pytest.mark.parametrize("threshold", [0.5, 0.9, 0.99, 0.9999])
def test_bases_are_those_of_the_papers_algorithm_task_after_task(threshold: float) -> None:
    ours = theirs = empty()
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
    basis = extended_basis(empty(), r @ r.T, 0.9)
    k = basis.shape[1]
    share = s.square().cumsum(0) / s.square().sum()
    assert share[k - 1] >= 0.9 > share[k - 2]
    torch.testing.assert_close(basis @ basis.T, u[:, :k] @ u[:, :k].T, rtol=1e-8, atol=1e-9)


def test_a_full_threshold_spans_the_inputs_and_nothing_else() -> None:
    r = inputs(5, 12, 0)
    basis = extended_basis(empty(), r @ r.T, 1.0)
    assert basis.shape == (12, 5)
    torch.testing.assert_close(basis @ (basis.T @ r), r, rtol=0, atol=1e-9)


def test_inputs_that_are_held_already_add_nothing() -> None:
    r = inputs(30, 12, 0)
    basis = extended_basis(empty(), r @ r.T, 0.9)
    assert extended_basis(basis, r @ r.T, 0.9) is basis


def test_the_update_takes_each_layers_inputs_out_of_its_gradient() -> None:
    """v_l = g_l(I − N_lN_lᵀ), N_l by the paper's algorithm on the layers' inputs, the bias's one among them."""
    first, second, third = tasks(3)
    learner = Learner(GPM(threshold=0.8))
    n = {"0": empty(7), "2": empty(9)}
    for data in (first, second):
        learner.learn(data)
        hidden = torch.tanh(learner.model[0](data[0])).detach()
        for name, a in (("0", data[0]), ("2", hidden)):
            n[name] = paper(n[name], torch.cat([a, torch.ones(len(a), 1, dtype=torch.float64)], 1).T, 0.8)
    learner.begin(third)
    assert 0 < n["0"].shape[1] < 7
    for vector in vectors(learner.blocks):
        g = {"0": vector[:56].reshape(8, 7), "2": vector[56:].reshape(3, 9)}
        expected = torch.cat([(part - part @ n[k] @ n[k].T).flatten() for k, part in g.items()])
        torch.testing.assert_close(learner.update(vector), expected, **EXACT)
    assert learner.method.memory_bytes == 8 * (7 * n["0"].shape[1] + 9 * n["2"].shape[1])


def conv_net() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.Tanh(), nn.Flatten(), nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 3))
    return seeded(model, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("model", "width"), [(mlp(12, 20, 16, 3), 12), (conv_net(), (2, 3, 3))], ids=["mlp", "conv"])
def test_with_a_full_threshold_all_outputs_on_stored_examples_stay_exactly(model: nn.Module, width: Any) -> None:
    """Not to first order only: W a of every layer stays, so the next layer is fed the same. Biases included."""
    learner = Learner(GPM(threshold=1.0), model, lr=0.5)
    known: list[tuple[Tensor, Tensor]] = []
    for data in tasks(3, examples=5, width=width):
        before = [p.detach().clone() for p in model.parameters()]
        learner.learn(data, epochs=3)
        assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        for x, outputs in known:
            torch.testing.assert_close(model(x).detach(), outputs, rtol=0, atol=1e-10)
        known.append((data[0], model(data[0]).detach()))


@pytest.mark.parametrize("seed", range(6))
def test_every_step_descends_by_its_squared_length(seed: int) -> None:
    learner = Learner(GPM(threshold=[0.7, 0.9], seed=seed), seed=seed).learn(*tasks(2, seed=seed))
    assert learner.steps[-1].update.norm() < learner.steps[-1].gradient.norm()
    for step in learner.steps:
        torch.testing.assert_close(step.gradient @ step.update, step.update @ step.update, rtol=1e-9, atol=1e-13)


def test_below_a_full_threshold_old_outputs_move_at_first_order() -> None:
    first, second = tasks(2, examples=6)
    learner = Learner(GPM(threshold=0.8), mlp(6, 30, 3)).learn(first)
    gradients = learner.gradients(first)
    learner.learn(second)
    assert max(leak(gradients, step.update) for step in learner.steps) > 0.01


def test_thresholds_go_by_layer_the_last_for_all_after_it_and_grow_with_tasks() -> None:
    kept = {}
    for name, method in {
        "low": GPM(threshold=0.5),
        "first": GPM(threshold=[0.99, 0.5]),
        "named": GPM(threshold=0.5, first_threshold=0.99),
        "growing": GPM(threshold=0.5, threshold_increment=0.49),
    }.items():
        learner, sizes = Learner(method, mlp(12, 20, 16, 3)), []
        for data in tasks(2, width=12):
            learner.learn(data)
            sizes.append([basis.shape[1] for basis in method.bases.values()])
        kept[name] = sizes
    assert kept["first"] == kept["named"]
    assert kept["first"][0][0] > kept["low"][0][0]
    assert kept["first"][0][1:] == kept["low"][0][1:]
    assert kept["growing"][0] == kept["low"][0]
    assert all(more > less for more, less in zip(kept["growing"][1], kept["low"][1], strict=True))


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
        Learner(GPM(threshold=[0.9, 0.9, 0.9])).learn(task())


def test_layers_whose_inputs_are_all_protected_are_named_and_the_share_left_is_told() -> None:
    """24 examples span the 7 inputs of the first layer; of the last only a share is wanted."""
    first, second = tasks(2)
    learner = Learner(GPM(threshold=[1.0, 0.9])).learn(first)
    kept = {name: basis.shape[1] for name, basis in learner.method.bases.items()}
    assert kept["0"] == 7
    assert kept["2"] < 9
    told = learner.method.statistics()
    assert told["rank"] == 7 + kept["2"]
    assert told["space_left"] == 0
    with pytest.warns(UserWarning, match=r"GPM: past inputs span all that layers 0 can be fed, .* take wider layers"):
        learner.begin(second)
    (vector,) = vectors(learner.blocks, 1)
    assert learner.update(vector)[:56].norm() < 1e-12 * vector.norm()
