from __future__ import annotations

import pytest
import torch
from nets import jacobian
from torch import Tensor, nn

from ong.curvature import Factors, find_blocks, record
from ong.natural.online import Gaussian, Moments, batch_moments


def drawn(examples: int, positions: int, width: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(examples, positions, width, generator=generator, dtype=torch.float64)


def factors(seed: int, positions: int = 1) -> Factors:
    return Factors(drawn(6, positions, 3, seed), drawn(6, positions, 2, seed + 1))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.95])
def test_moments_of_equal_batches_are_the_batch_s_whatever_the_decay(decay: float) -> None:
    moments = Moments.empty(2, 3, torch.zeros(1, dtype=torch.float64))
    inputs, outputs = batch_moments(factors(0))
    for _ in range(5):
        moments.add(*batch_moments(factors(0)), decay)
        torch.testing.assert_close(moments.inputs_cov, inputs, rtol=1e-13, atol=0)
        torch.testing.assert_close(moments.outputs_cov, outputs, rtol=1e-13, atol=0)


def test_moments_weigh_batches_by_powers_of_the_decay() -> None:
    moments = Moments.empty(2, 3, torch.zeros(1, dtype=torch.float64))
    for seed in (0, 10, 20):
        moments.add(*batch_moments(factors(seed)), 0.8)
    weights = torch.tensor([0.64, 0.8, 1.0], dtype=torch.float64)
    parts = torch.stack([batch_moments(factors(seed))[0] for seed in (0, 10, 20)])
    expected = torch.einsum("k,kij->ij", weights / weights.sum(), parts)
    torch.testing.assert_close(moments.inputs_cov, expected, rtol=1e-13, atol=0)


def test_without_decay_only_the_last_batch_counts() -> None:
    moments = Moments.empty(2, 3, torch.zeros(1, dtype=torch.float64))
    moments.add(*batch_moments(factors(0)), 0.0)
    moments.add(*batch_moments(factors(10)), 0.0)
    assert torch.equal(moments.outputs_cov, batch_moments(factors(10))[1])


def test_positions_are_averaged_in_the_inputs_and_summed_in_the_outputs() -> None:
    part = factors(0, positions=4)
    inputs, outputs = batch_moments(part)
    a, d = part.inputs, part.outputs
    torch.testing.assert_close(inputs, sum(torch.outer(v, v) for v in a.reshape(-1, 3)) / 24)
    torch.testing.assert_close(outputs, sum(torch.outer(v, v) for v in d.reshape(-1, 2)) / 6)


def test_gaussian_cotangents_average_to_the_jacobian_factor(problem) -> None:  # type: ignore[no-untyped-def]
    """E[δδᵀ] = E_x[J_zᵀJ_z], J_z the Jacobian of the outputs with respect to a layer's outputs."""
    model, x, _ = problem(5, 4, 3)
    blocks = find_blocks(model)
    first = model[0]
    assert isinstance(first, nn.Linear)
    # ∂h/∂bias of the first layer is J_z for every example.
    jac = jacobian(model, x)[:, :, : first.out_features * (first.in_features + 1)]
    jac = jac.reshape(len(x), 3, first.out_features, first.in_features + 1)[..., -1]
    expected = torch.einsum("nci,ncj->ij", jac, jac) / len(x)
    generator = torch.Generator().manual_seed(1)
    with record(blocks) as tape:
        outputs = model(x)
    draws = []
    for _ in range(2000):
        u = Gaussian().cotangent(outputs.detach(), generator)
        draws.append(batch_moments(tape.factors(outputs, u)["0"])[1])
    stack = torch.stack(draws)
    error = stack.std(0) / len(draws) ** 0.5
    # 5 standard errors: of ten distinct entries none is beyond by chance (1 in 10⁵).
    assert bool(((stack.mean(0) - expected).abs() < 5 * error).all())
