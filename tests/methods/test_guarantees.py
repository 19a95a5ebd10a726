"""The two columns of math.md §4, Gᵀv = 0 and gᵀv ≥ 0, on steps that SGD really takes on random nets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from methods.matrices import Learner, Task, backward, cosine, dense, leak, tasks
from nets import mlp
from torch import Tensor

from ong.methods import FOPNG, GPM, NCL, NGD, OGD, ONG, OWM, SGP, Method, OGDPlus, ONGPrior, ONGv1

EXAMPLES = 6
CURRENT: dict[str, Any] = {"damping": 0.01, "fisher": "rademacher", "refresh_every": 2}
METHODS: dict[str, Callable[[int], Method]] = {
    "ogd": lambda seed: OGD(directions_per_task=EXAMPLES, seed=seed),
    "ogd+": lambda seed: OGDPlus(directions_per_task=EXAMPLES, seed=seed),
    "ngd": lambda seed: NGD(seed=seed, **CURRENT),
    "ong-v1": lambda seed: ONGv1(directions_per_task=EXAMPLES, seed=seed, **CURRENT),
    "ong": lambda seed: ONG(directions_per_task=EXAMPLES, seed=seed, **CURRENT),
    "ong-prior": lambda seed: ONGPrior(damping=0.01, directions_per_task=EXAMPLES, seed=seed),
    "ong-prior, thin": lambda seed: ONGPrior(damping=0.01, rank=2, directions_per_task=EXAMPLES, seed=seed),
    "ncl": lambda seed: NCL(pull=0.0, damping=0.01, seed=seed),
    "fopng": lambda seed: FOPNG(damping=0.01, directions_per_task=EXAMPLES, seed=seed),
    "fopng, corrected": lambda seed: FOPNG(corrected=True, damping=0.01, directions_per_task=EXAMPLES, seed=seed),
    "owm": lambda seed: OWM(alpha=0.1, seed=seed),
    "gpm": lambda seed: GPM(threshold=[0.7, 0.9], seed=seed),
    "sgp": lambda seed: SGP(threshold=[0.9, 0.99], seed=seed),
}
STAY = ("ogd", "ong-v1", "ong-prior", "ong-prior, thin")
DESCEND = (
    "ogd", "ogd+", "ngd", "ong-prior", "ong-prior, thin", "ncl", "fopng, corrected", "owm", "gpm", "sgp",
)  # fmt: skip


def third_task(name: str, seed: int, hidden: int, lr: float = 0.05) -> tuple[Tensor, Learner]:
    """G of the first two tasks, each at the weights it ended with, and the learner after the steps of the third."""
    learner = Learner(METHODS[name](seed), mlp(6, hidden, 3, seed=seed), batch=3, lr=lr)
    *first, last = tasks(3, seed=seed, examples=EXAMPLES)
    found = []
    for data in first:
        learner.learn(data)
        found.append(learner.gradients(data))
    learner.method.begin_task(last)
    learner.steps = []
    learner.train(last, epochs=2)
    return torch.cat(found, 1), learner


random_nets = settings(max_examples=8, deadline=None)
seeds, widths = st.integers(0, 10_000), st.integers(5, 12)


@pytest.mark.parametrize("name", STAY)
@random_nets
@given(seed=seeds, hidden=widths)
def test_no_step_moves_a_stored_output_at_first_order(name: str, seed: int, hidden: int) -> None:
    g, learner = third_task(name, seed, hidden)
    assert len(learner.steps) == 4
    for step in learner.steps:
        assert leak(g, step.update) < 1e-6  # the Gram squares the condition of G, of which 1e-6 is cut


@pytest.mark.parametrize("name", DESCEND)
@random_nets
@given(seed=seeds, hidden=widths)
def test_every_step_descends(name: str, seed: int, hidden: int) -> None:
    _, learner = third_task(name, seed, hidden)
    for step in learner.steps:
        assert cosine(step.gradient, step.update) >= -1e-9  # rounding of the inverses


@pytest.mark.parametrize("name", [name for name in METHODS if name not in (*STAY, "ogd+")])
def test_what_does_not_promise_it_moves_stored_outputs_at_first_order(name: str) -> None:
    g, learner = third_task(name, 0, 12)
    assert max(leak(g, step.update) for step in learner.steps) > 0.01


def steepest_ascent(name: str, seed: int) -> tuple[float, float]:
    """The g for which gᵀv is least among |g| = 1, in the third task of a net: gᵀv as v's formula and ``update`` have it."""
    learner = Learner(METHODS[name](seed), mlp(6, 8, 3, seed=seed), batch=3)
    *first, last = tasks(3, seed=seed, examples=EXAMPLES)
    learner.learn(*first).begin(last)
    matrix = dense(learner.method.project, learner.blocks)
    values, eigenvectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    g = eigenvectors[:, 0]
    return float(values[0]), float(g @ learner.update(g))


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("name", ["ong-v1", "ong"])
def test_on_every_net_some_gradient_makes_the_published_versions_ascend(name: str, seed: int) -> None:
    least, ascent = steepest_ascent(name, seed)
    assert least < -0.01
    assert ascent == pytest.approx(least, abs=1e-9)


@settings(max_examples=8, deadline=None)
@given(seed=seeds)
@pytest.mark.parametrize("name", ["ogd", "ong-prior"])
def test_on_no_net_does_any_gradient_make_a_symmetric_projection_ascend(name: str, seed: int) -> None:
    assert steepest_ascent(name, seed)[0] > -1e-9


def test_the_counter_example_of_preconditioning_before_projecting() -> None:
    """math.md §4: F = diag(.01, 1), u = (1, 1)/√2, g = (1, 50): ONG v1's step ascends."""
    inverse = torch.diag(torch.tensor([1 / 0.01, 1.0], dtype=torch.float64))
    u, g = torch.tensor([1.0, 1.0], dtype=torch.float64) / 2**0.5, torch.tensor([1.0, 50.0], dtype=torch.float64)
    natural = inverse @ g
    assert g @ (natural - u * (u @ natural)) < 0


def test_both_published_versions_ascend_in_a_share_of_random_cases_and_ong_prior_in_none() -> None:
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


def change_of_stored_outputs(method: Method | None, lr: float) -> float:
    """How far one step on a second task moves the stored logits of the first."""
    model = mlp(6, 8, 3, seed=3)
    first, second = tasks(2, seed=3, examples=EXAMPLES)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)

    def step(data: Task) -> None:
        backward(model, data)
        sgd.step()

    def logits() -> Tensor:
        return model(first[0]).detach().gather(1, first[1][:, None])

    if method is not None:
        method.attach(model, sgd).begin_task(first)
    step(first)
    before = logits()
    if method is not None:
        method.end_task()
        method.begin_task(second)
    sgd.param_groups[0]["lr"] = lr
    step(second)
    return float((logits() - before).norm())


@pytest.mark.parametrize(
    ("name", "order"),
    [(None, 1), ("ngd", 1), ("ong", 1), ("ncl", 1), ("owm", 1), ("ogd", 2), ("ong-v1", 2), ("ong-prior", 2)],
)
def test_a_step_changes_stored_outputs_at_the_order_it_claims(name: str | None, order: int) -> None:
    """Halving the rate of a whole step halves a first-order change, and quarters a second-order one."""
    whole, half = (change_of_stored_outputs(METHODS[name](0) if name else None, lr) for lr in (2e-4, 1e-4))
    assert whole / half == pytest.approx(2**order, rel=0.05)
