"""FOPNG against its algebra written out in matrices: the published projector and the one its constraint asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from harness import Spy, learner, measured_steps, tasks, weights, with_and_without_a_break
from nets import flat, mlp, unflat
from torch import Tensor

from ong.curvature import Metric, find_blocks
from ong.plugins import FOPNG
from ong.plugins import fopng as module

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")
DAMPING = 0.05


@dataclass
class Run:
    """The third task of a run, in matrices: (F_c+λ)⁻¹, F_p, G and each step's (g, v)."""

    inverse: Tensor
    past: Tensor
    stored: Tensor
    steps: list[tuple[Tensor, Tensor]]

    @property
    def images(self) -> Tensor:
        return self.past @ self.stored

    def projector(self, corrected: bool, scale: float = 1.0, gram_damping: float = 0.0) -> Tensor:
        """P, with F_c + λ multiplied by a number."""
        h, inverse = self.images, self.inverse / scale
        right = inverse if corrected else torch.eye(len(h), dtype=torch.float64)
        gram = h.T @ inverse @ h
        core = torch.linalg.inv(gram + gram_damping * torch.eye(len(gram), dtype=torch.float64))
        return torch.eye(len(h), dtype=torch.float64) - h @ core @ h.T @ right


def run(seed: int = 0, **options: Any) -> Run:
    model = mlp(5, 6, 3, seed=seed)
    blocks = find_blocks(model)
    plugin, before, after = FOPNG(damping=DAMPING, directions_per_task=3, seed=seed, **options), Spy(), Spy()
    strategy = learner(model, before, plugin, after)
    stream = tasks(3, width=5, seed=seed).train_stream
    for experience in stream[:2]:
        strategy.train(experience, eval_streams=[])
    units = torch.eye(sum(b.shape[0] * b.shape[1] for b in blocks.values()), dtype=torch.float64)

    def dense(apply: Any) -> Tensor:
        return torch.stack([flat(apply(unflat(unit, blocks)), blocks) for unit in units], 1)

    past = dense(lambda v: plugin.ekfac.apply(v, power=1.0))
    stored = torch.stack(
        [flat(plugin.memory.combine(c), blocks) for c in torch.eye(len(plugin.memory), dtype=torch.float64)], 1
    )
    before.seen.clear()
    after.seen.clear()
    strategy.train(stream[2], eval_streams=[])
    assert plugin._metric is not None
    metric = plugin._metric
    inverse = dense(metric.precondition) / DAMPING
    steps = [(flat(g, blocks), flat(v, blocks)) for g, v in zip(before.seen, after.seen, strict=True)]
    return Run(inverse, past, stored, steps)


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("trust_region", [False, True])
@pytest.mark.parametrize("gram_damping", [0.0, 0.01])
def test_a_step_is_the_formula_in_matrices(corrected: bool, trust_region: bool, gram_damping: float) -> None:
    found = run(corrected=corrected, trust_region=trust_region, gram_damping=gram_damping)
    for g, v in found.steps:
        projected = found.projector(corrected, gram_damping=gram_damping) @ g
        expected = found.inverse @ projected
        expected = expected / (projected @ expected).sqrt() if trust_region else DAMPING * expected
        torch.testing.assert_close(v, expected, rtol=1e-6, atol=1e-8)  # the Gram squares the condition of H


@pytest.mark.parametrize("seed", range(5))
def test_the_corrected_step_solves_the_constrained_problem(seed: int) -> None:
    """argmin −gᵀv + ½ vᵀF_c v s.t. GᵀF_p v = 0: feasible, and the gradient −g + F_c v lies in span F_pG."""
    found = run(seed, corrected=True)
    h = found.images / found.images.norm(dim=0)
    for g, v in found.steps:
        v = v / DAMPING
        assert (h.T @ v).norm() < 1e-6 * v.norm()
        stationarity = torch.linalg.solve(found.inverse, v) - g
        inside = h @ torch.linalg.lstsq(h, stationarity[:, None]).solution[:, 0]
        assert (stationarity - inside).norm() < 1e-6 * g.norm()
        assert g @ v >= 0


@pytest.mark.parametrize("seed", range(5))
def test_only_the_corrected_projector_is_idempotent_and_blind_to_the_scale_of_the_fisher(seed: int) -> None:
    found = run(seed)
    published, corrected = found.projector(False), found.projector(True)
    torch.testing.assert_close(corrected @ corrected, corrected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found.projector(True, scale=2.0), corrected, rtol=1e-6, atol=1e-8)
    assert (published @ published - published).norm() > 0.1
    assert (found.projector(False, scale=2.0) - published).norm() > 0.1


def test_the_published_step_breaks_its_own_constraint() -> None:
    found = run()
    h = torch.linalg.qr(found.images).Q
    assert max(float((h.T @ v).norm() / v.norm()) for _, v in found.steps) > 0.1


def test_the_published_step_can_ascend() -> None:
    """F_c = 4, F_p = 1, G = g = 1 in one dimension: P = 1 − 4 and v = F_c⁻¹Pg = −¾ against g = 1."""
    g = f_p = stored = 1.0
    f_c = 4.0
    h = f_p * stored
    projected = g - h * (h * h / f_c) ** -1 * h * g
    assert g * projected / f_c == -0.75


@pytest.mark.parametrize("corrected", [False, True])
def test_both_move_old_outputs_at_first_order(corrected: bool) -> None:
    plugin = FOPNG(corrected=corrected, damping=DAMPING, directions_per_task=6)
    assert max(leak for leak, _ in measured_steps(plugin, 0, 8)) > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_every_corrected_step_descends(seed: int) -> None:
    plugin = FOPNG(corrected=True, damping=DAMPING, directions_per_task=6, seed=seed)
    for _, cosine in measured_steps(plugin, seed, 8):
        assert cosine >= -1e-9


class WithoutHead(SupervisedPlugin):
    """Takes the last layer out of every step of the third task, as another task's head would be."""

    def after_backward(self, strategy: Any, **kwargs: Any) -> None:
        if strategy.clock.train_exp_counter == 2:
            for parameter in strategy.model[-1].parameters():
                parameter.grad = None


def test_the_constraint_holds_over_the_layers_that_move() -> None:
    after, plugin = Spy(), FOPNG(corrected=True, damping=DAMPING, directions_per_task=3)
    model = mlp(5, 6, 3)
    strategy = learner(model, WithoutHead(), plugin, after)
    stream = tasks(3, width=5).train_stream
    for experience in stream[:2]:
        strategy.train(experience, eval_streams=[])
    past = Metric(plugin.ekfac, find_blocks(model), DAMPING)
    first = {name: rows for name, rows in plugin.memory.rows.items() if name == "0"}
    images = [past.curvature({"0": first["0"].dense(torch.tensor([m]))[0]})["0"] for m in range(len(plugin.memory))]
    after.seen.clear()
    strategy.train(stream[2], eval_streams=[])
    assert after.seen
    for update in after.seen:
        assert not update["2"].any()
        for image in images:
            assert (image * update["0"]).sum().abs() < 1e-6 * image.norm() * update["0"].norm()


def test_rank_and_condition_are_told() -> None:
    plugin = FOPNG(damping=DAMPING, directions_per_task=3)
    strategy = learner(mlp(5, 6, 3), plugin)
    stream = tasks(2, width=5).train_stream
    strategy.train(stream[0], eval_streams=[])
    assert "rank" not in plugin.statistics()
    strategy.train(stream[1], eval_streams=[])
    (solver,) = plugin._solvers.values()
    told = plugin.statistics()
    assert (told["rank"], told["condition"]) == (solver.rank, solver.condition)
    assert told["rank"] == 3
    assert told["condition"] >= 1


def test_the_gram_does_not_depend_on_how_it_is_cut_into_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = []
    for chunk in (2**25, 100):
        monkeypatch.setattr(module, "_CHUNK", chunk)
        torch.manual_seed(0)
        model = mlp(5, 6, 3)
        strategy = learner(model, FOPNG(corrected=True, damping=DAMPING, directions_per_task=5))
        for experience in tasks(3, width=5).train_stream:
            strategy.train(experience, eval_streams=[])
        ends.append(weights(model))
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-11)


def test_a_break_changes_nothing() -> None:
    whole, resumed = with_and_without_a_break(lambda: FOPNG(directions_per_task=4))
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping must be positive"),
        ({"gram_damping": -1.0}, "gram_damping must be at least 0"),
        ({"directions": "gt"}, "did you mean 'gtl'"),
        ({"fisher": "diag"}, "unknown Fisher type"),
        ({"directions_per_task": 0}, "directions_per_task must be at least 1"),
    ],
)
def test_bad_arguments_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FOPNG(**options)
