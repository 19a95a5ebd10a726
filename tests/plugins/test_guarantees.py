"""The two columns of math.md §4, measured on the updates of real Avalanche training steps of random nets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import learner, measured_steps, tasks
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nets import mlp

from ong.plugins import OGD, ONG

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")

PRESETS: dict[str, Any] = {
    "ogd": lambda **o: OGD(directions_per_task=6, **o),
    "ngd": lambda **o: ONG(metric="current", projection="none", fisher="rademacher", damping=0.01, **o),
    "ong-v1": lambda **o: ONG(
        metric="current", memory="gradients", projection="euclidean", fisher="rademacher", damping=0.01,
        directions_per_task=6, refresh_every=2, **o,
    ),
    "ong": lambda **o: ONG(
        metric="current", memory="natural", projection="euclidean", fisher="rademacher", damping=0.01,
        directions_per_task=6, refresh_every=2, **o,
    ),
    "ong-prior": lambda **o: ONG(metric="prior", projection="metric", damping=0.01, directions_per_task=6, **o),
    "prior metric, no projection": lambda **o: ONG(metric="prior", projection="none", damping=0.01, **o),
}  # fmt: skip


def steps(preset: str, seed: int, hidden: int) -> list[tuple[float, float]]:
    """(leak, descent cosine) of each step of the third task."""
    return measured_steps(PRESETS[preset](seed=seed), seed, hidden)


@pytest.mark.parametrize("preset", ["ogd", "ong-v1", "ong-prior"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), hidden=st.integers(5, 12))
def test_no_step_moves_a_stored_output_at_first_order(preset: str, seed: int, hidden: int) -> None:
    for leak, _ in steps(preset, seed, hidden):
        assert leak < 1e-6  # float64; the Gram squares the condition of G, of which 1e-6 is cut


@pytest.mark.parametrize("preset", ["ogd", "ngd", "ong-prior", "prior metric, no projection"])
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000), hidden=st.integers(5, 12))
def test_every_step_descends(preset: str, seed: int, hidden: int) -> None:
    for _, cosine in steps(preset, seed, hidden):
        assert cosine >= -1e-9


def test_ong_as_published_leaks() -> None:
    assert max(leak for leak, _ in steps("ong", 0, 8)) > 0.05
    assert max(leak for leak, _ in steps("ngd", 0, 8)) > 0.05


def test_the_counter_example_of_preconditioning_before_projecting() -> None:
    """math.md §4: F = diag(.01, 1), u = (1, 1)/√2, g = (1, 50): ONG v1's step ascends."""
    inverse = torch.diag(torch.tensor([1 / 0.01, 1.0], dtype=torch.float64))
    u, g = torch.tensor([1.0, 1.0], dtype=torch.float64) / 2**0.5, torch.tensor([1.0, 50.0], dtype=torch.float64)
    natural = inverse @ g
    assert g @ (natural - u * (u @ natural)) < 0


def test_both_published_versions_ascend_in_a_share_of_random_cases() -> None:
    generator = torch.Generator().manual_seed(0)
    ascending = {"ong-v1": 0, "ong": 0, "ong-prior": 0}
    for _ in range(500):
        root = torch.randn(3, 3, generator=generator, dtype=torch.float64)
        inverse = torch.linalg.inv(root @ root.T + 0.01 * torch.eye(3, dtype=torch.float64))
        u, g = torch.randn(2, 3, generator=generator, dtype=torch.float64)
        natural, stored = inverse @ g, inverse @ u
        for name, q in (("ong-v1", u), ("ong", stored)):
            ascending[name] += bool(g @ (natural - q * (q @ natural) / (q @ q)) < 0)
        ascending["ong-prior"] += bool(g @ (inverse @ (g - u * (u @ natural) / (u @ stored))) < -1e-9)
    assert 0.03 < ascending["ong-v1"] / 500 < 0.2  # about 9 % were found before
    assert ascending["ong"] > 0
    assert ascending["ong-prior"] == 0


def change_of_stored_outputs(plugins: list[Any], lr: float) -> float:
    """How far one real training step on a second task moves the stored logits of the first."""
    model = mlp(6, 8, 3, seed=3)
    stream = tasks(2, examples=8, seed=3).train_stream
    strategy = learner(model, *plugins, lr=0.1)
    strategy.train(stream[0], eval_streams=[])
    x = torch.stack([item[0] for item in stream[0].dataset])
    y = torch.stack([item[1] for item in stream[0].dataset])
    before = model(x).gather(1, y[:, None]).detach()
    strategy.optimizer.param_groups[0]["lr"] = lr
    strategy.train(stream[1], eval_streams=[])  # 8 examples in a batch of 8
    return float((model(x).gather(1, y[:, None]).detach() - before).norm())


@pytest.mark.parametrize(
    ("preset", "order"), [(None, 1), ("ngd", 1), ("ong", 1), ("ogd", 2), ("ong-v1", 2), ("ong-prior", 2)]
)
def test_a_step_changes_stored_outputs_at_the_order_it_claims(preset: str | None, order: int) -> None:
    """Finite differences through a whole step: halving the rate halves a first-order change, quarters a second."""

    def plugins() -> list[Any]:
        plugin = [] if preset is None else [PRESETS[preset](seed=0)]
        for part in plugin:
            part.directions_per_task = 8  # all examples of the task
        return plugin

    ratio = change_of_stored_outputs(plugins(), 2e-4) / change_of_stored_outputs(plugins(), 1e-4)
    assert ratio == pytest.approx(2**order, rel=0.05)
