"""Orthogonal weights modification against the recursion it was published as, and against a metric."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import learner, measured_steps, tasks, weights, with_and_without_a_break
from nets import mlp, seeded
from torch import Tensor, nn

from ong.curvature import (
    EKFAC,
    EigenBlock,
    Metric,
    UnsupportedLayerError,
    affine_blocks,
    find_blocks,
    input_covariances,
)
from ong.plugins import OWM
from ong.plugins.owm import owm_projector

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_net() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Conv2d(2, 4, 2, groups=2, bias=False), nn.Flatten(), nn.Linear(4, 3)
    )
    return seeded(model, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("alpha", [0.01, 1.0, 30.0])
def test_the_projector_is_where_the_papers_recursion_ends(alpha: float) -> None:
    """P ← P − k xᵀP, k = P x/(α + xᵀPx), from P = I, over the examples of two tasks, each divided by √n."""
    past = [random(7, 5, seed=1), 3 * random(4, 5, seed=2)]
    recursive = torch.eye(5, dtype=torch.float64)
    for inputs in past:
        for x in inputs / len(inputs) ** 0.5:
            gain = recursive @ x / (alpha + x @ recursive @ x)
            recursive = recursive - torch.outer(gain, x @ recursive)
    covariance = sum(inputs.T @ inputs / len(inputs) for inputs in past)
    assert isinstance(covariance, Tensor)
    torch.testing.assert_close(owm_projector(covariance, alpha), recursive, rtol=1e-10, atol=1e-12)


def test_the_projector_is_the_papers_closed_form() -> None:
    """P = I − X(XᵀX + αI)⁻¹Xᵀ, past inputs in the columns of X."""
    x, alpha = random(6, 4), 0.3
    expected = (
        torch.eye(6, dtype=torch.float64)
        - x @ torch.linalg.inv(x.T @ x + alpha * torch.eye(4, dtype=torch.float64)) @ x.T
    )
    torch.testing.assert_close(owm_projector(x @ x.T, alpha), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("model", "shape"), [(mlp(6, 5, 3), (9, 6)), (conv_net(), (9, 1, 5, 5))], ids=["mlp", "conv"])
def test_input_covariances_are_the_a_of_kfac_batch_by_batch(model: nn.Module, shape: tuple[int, ...]) -> None:
    x, y = random(*shape), torch.zeros(shape[0], dtype=torch.long)
    blocks = find_blocks(model)
    found = input_covariances(model, [(x[:4], y[:4]), (x[4:], y[4:])], blocks)
    expected = EKFAC.fit(model, [(x, y)])
    for name in blocks:
        torch.testing.assert_close(found[name], expected.blocks[name].inputs_cov, rtol=1e-10, atol=1e-12)


def test_covariances_are_summed_over_tasks_with_the_one_of_the_bias() -> None:
    model, plugin = mlp(6, 8, 3), OWM()
    strategy, inputs = learner(model, plugin), []
    for experience in tasks(2).train_stream:
        strategy.train(experience, eval_streams=[])
        inputs.append(torch.stack([item[0] for item in experience.dataset]))
    joined = [torch.cat([x, x.new_ones(len(x), 1)], 1) for x in inputs]
    expected = sum(a.T @ a / len(a) for a in joined)
    torch.testing.assert_close(plugin.inputs_cov["0"], expected, rtol=1e-10, atol=1e-12)
    assert plugin.memory_bytes == 8 * (7 * 7 + 9 * 9)


def test_a_step_is_that_of_a_metric_with_the_identity_for_the_outputs() -> None:
    """F = I ⊗ A has eigenvalues 1 ⊗ D_A; its λ(F+λ)⁻¹ at λ = α is OWM's projector."""
    model = mlp(6, 4, seed=1)
    blocks = find_blocks(model)
    (name,) = blocks
    a = random(20, 7)
    covariance, alpha, g = a.T @ a / 20, 0.2, random(4, 7, seed=3)
    values, basis = torch.linalg.eigh(covariance)
    eye = torch.eye(4, dtype=torch.float64)
    ekfac = EKFAC({name: EigenBlock(covariance, eye, basis, eye, values.expand(4, 7))})
    expected = Metric(ekfac, blocks, alpha).precondition({name: g})[name]
    torch.testing.assert_close(g @ owm_projector(covariance, alpha), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_every_step_descends(seed: int) -> None:
    for _, cosine in measured_steps(OWM(alpha=0.1, seed=seed), seed, 8):
        assert cosine >= 0


def test_old_outputs_move_at_first_order_the_less_the_smaller_alpha() -> None:
    leaks = [max(leak for leak, _ in measured_steps(OWM(alpha=a), 0, 30, examples=6)) for a in (10.0, 0.1, 1e-6)]
    assert leaks[0] > leaks[1] > leaks[2]
    assert leaks[1] > 1e-2  # no exact Gᵀv = 0
    assert leaks[2] < 0.4


def test_the_first_task_is_trained_plainly() -> None:
    ends = []
    for plugins in ([OWM()], []):
        torch.manual_seed(0)
        model = mlp(6, 8, 3)
        learner(model, *plugins).train(tasks(1).train_stream[0], eval_streams=[])
        ends.append(weights(model))
    assert torch.equal(*ends)


def test_a_break_changes_nothing() -> None:
    whole, resumed = with_and_without_a_break(OWM)
    assert torch.equal(whole, resumed)


def test_layers_without_inputs_to_protect_are_an_error_or_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with pytest.raises(UnsupportedLayerError, match=r"'1' \(LayerNorm\)"):
        affine_blocks(find_blocks(model))
    with pytest.warns(UserWarning, match="LayerNorm"):
        assert list(affine_blocks(find_blocks(model), "ignore")) == ["0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 0.0}, "alpha must be positive"), ({"examples_per_task": 0}, "examples_per_task must be at least 1")],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OWM(**options)
