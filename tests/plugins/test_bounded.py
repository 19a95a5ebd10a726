"""Memories that stay within bounds, and the estimate that stops what would not fit."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from harness import learner, tasks
from measured import GUARANTEED, PRESETS, Steps
from nets import flat, mlp
from torch import nn

from ong.curvature import find_blocks
from ong.errors import UserError
from ong.plugins import FOPNG, OGD, ONG, budget, directions
from ong.projection import DirectionMemory, EuclideanProjection
from ong.streams import TaskData, benchmark_from_tensors

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")


def train(plugin: Any, count: int = 3, model: nn.Module | None = None, **options: Any) -> list[dict[str, float]]:
    """The plugin's statistics after each task."""
    strategy = learner(model or mlp(6, 12, 3), plugin, **options)
    found = []
    torch.manual_seed(0)  # Avalanche shuffles by the global generator
    for experience in tasks(count).train_stream:
        strategy.train(experience, eval_streams=[])
        found.append(plugin.statistics())
    return found


@pytest.mark.parametrize("preset", ["ogd", "ong-v1", "ong", "ong-prior"])
def test_no_more_directions_are_kept_than_asked_for_and_what_went_is_told(preset: str) -> None:
    plugin = PRESETS[preset](directions_per_task=8, max_directions=10)
    found = train(plugin)
    assert [s["directions"] for s in found] == [8, 10, 10]
    assert [s["directions_dropped"] for s in found] == [0, 6, 14]
    captured = [s["directions_captured"] for s in found]
    assert captured[0] == 1
    assert all(0.3 < share < 1 for share in captured[1:])  # 10 of 16 and of 18 that are nearly independent
    assert len(plugin.memory) == 10


def test_ogd_plus_and_fopng_keep_within_bounds_too() -> None:
    for plugin, dropped in (
        (OGD(directions_per_task=8, max_directions=10, recompute=True), [0, 6, 14]),  # of 24 examples that it keeps
        (FOPNG(directions_per_task=8, max_directions=10), [0, 6, 14]),
    ):
        found = train(plugin)
        assert [s["directions"] for s in found] == [8, 10, 10]
        assert [s["directions_dropped"] for s in found] == dropped


@pytest.mark.parametrize("preset", ["ogd", "ong-v1", "ong", "ong-prior"])
def test_no_more_bytes_are_kept_than_asked_for(preset: str) -> None:
    limit = 12 * 8 * (7 + 12 + 13 + 3)
    if preset == "ong":  # its rows need the three tasks' eigenbases and eigenvalues
        limit += 3 * 8 * (7**2 + 12**2 + 2 * 7 * 12 + 13**2 + 3**2 + 2 * 13 * 3)
    plugin = PRESETS[preset](directions_per_task=8, max_bytes=limit)
    assert train(plugin)[-1]["directions"] == 12
    assert plugin.memory.bytes == limit


@pytest.mark.parametrize("preset", GUARANTEED)
def test_steps_are_projected_off_the_directions_that_were_kept(preset: str) -> None:
    model, steps = mlp(6, 12, 3), Steps()
    plugin = PRESETS[preset](directions_per_task=8, max_directions=10)
    strategy = learner(model, steps, plugin, batch=4)
    stream = tasks(3).train_stream
    for experience in stream[:2]:
        strategy.train(experience, eval_streams=[])
    kept = EuclideanProjection(copy.deepcopy(plugin.memory))
    steps.taken.clear()
    strategy.train(stream[2], eval_streams=[])
    blocks = find_blocks(model)
    for step in steps.taken:
        v = {name: torch.cat([step[f"{name}.weight"], step[f"{name}.bias"][:, None]], 1) for name in blocks}
        assert kept.captured(v) < 1e-6


def test_what_is_kept_spans_more_than_what_came_first_or_last() -> None:
    """Choosing by independence is worth it: the whole memory's share in the span of 8 of 24."""
    whole = OGD(directions_per_task=8)
    train(whole, model=mlp(6, 12, 3))
    model = mlp(6, 12, 3)
    unit = torch.stack(
        [flat(whole.memory.combine(e), find_blocks(model)) for e in torch.eye(24, dtype=torch.float64)], 1
    ).numpy()
    unit /= np.linalg.norm(unit, axis=0)

    def share(chosen: Any) -> float:
        basis = np.linalg.qr(unit[:, chosen])[0]
        return float(np.square(basis.T @ unit).sum() / 24)

    plugin = copy.deepcopy(whole)
    plugin.bounds = directions.Bounds(max_directions=8)
    kept, captured = plugin.bounds.apply(plugin.memory)
    gram = kept.gram()
    places = [int(np.argmin(np.abs(whole.memory.gram().diagonal().numpy() - float(d)))) for d in gram.diagonal()]
    assert share(places) == pytest.approx(captured, abs=1e-9)
    assert captured > share(range(8))
    assert captured > share(range(16, 24))


def test_unbounded_memories_are_as_they_were() -> None:
    plain, bounded = OGD(directions_per_task=8), OGD(directions_per_task=8, max_directions=24, max_bytes=10**9)
    train(plain)
    train(bounded)
    assert torch.equal(plain.memory.gram(), bounded.memory.gram())
    assert bounded.directions_dropped == 0


@pytest.mark.parametrize("plugin", [OGD, ONG, FOPNG])
@pytest.mark.parametrize("wrong", [{"max_directions": 0}, {"max_bytes": 0}, {"directions_per_task": 0}])
def test_bounds_below_one_are_refused(plugin: Any, wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be at least 1, got 0"):
        plugin(**wrong)


def weights_unmoved(plugin: Any, message: str, **options: Any) -> None:
    model = mlp(6, 12, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=message):
        train(plugin, model=model, **options)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_stream_that_will_not_fit_stops_before_training_with_numbers_and_a_remedy_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # 3 tasks × 24 examples × 3 classes, 280 bytes each: three times 60,480 bytes (but twice for layers kept
    # dense), and 24 × 216² for the Gram
    assert budget.needed_bytes(3 * 216 * 280, 216) == 181_440 + 1_119_744
    monkeypatch.setattr(directions, "available_bytes", lambda device: 1_000_000)
    whole = {"directions": "all", "directions_per_task": 1000}
    message = (
        r"OGD: 3 tasks of 72 directions, 280 bytes each, need up to 1\.3 MB of memory, and 1 MB are available; "
        r"pass max_directions=115 \(or max_bytes=32200\) or a lower directions_per_task or directions='gtl'"
    )
    weights_unmoved(OGD(**whole), message)
    assert train(OGD(max_directions=115, **whole))[-1]["directions"] <= 115
    assert train(OGD(max_bytes=32_200, **whole))[-1]["directions"] <= 115
    assert train(OGD(directions_per_task=1000))[-1]["directions"] == 72
    with pytest.raises(UserError, match="max_directions"):
        train(OGD(max_directions=180, **whole))


@pytest.mark.parametrize(("kind", "per_task"), [("gtl", 5), ("all", 4)])
@pytest.mark.parametrize(("preset", "copies"), [("ogd", 3), ("ong-v1", 3), ("ong", 3), ("ong-prior", 5)])
def test_the_estimate_is_copies_of_what_the_tasks_then_leave(
    preset: str, copies: int, kind: str, per_task: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates = []
    monkeypatch.setattr(directions, "needed_bytes", lambda stored, count: estimates.append((stored, count)) or 0)
    plugin = PRESETS[preset](directions=kind, directions_per_task=per_task)
    found = train(plugin, model=mlp(6, 40, 3))
    assert estimates == [(copies * plugin.memory.bytes, found[-1]["directions"])]


def test_the_estimate_leaves_the_plugins_randomness_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    grams = []
    for check in (True, False):
        plugin = OGD(directions_per_task=8)
        if not check:
            monkeypatch.setattr(OGD, "_check_room", lambda *_: None)
        train(plugin)
        grams.append(plugin.memory.gram())
    assert torch.equal(*grams)


def test_bytes_that_hold_not_one_direction_are_refused() -> None:
    weights_unmoved(OGD(max_bytes=279), "max_bytes=279 holds not one direction of this model, which takes 280 bytes")


def test_the_machines_memory_is_read() -> None:
    assert 10**6 < budget.available_bytes(torch.device("cpu")) < 10**15


def test_as_many_directions_fit_as_the_formula_says() -> None:
    for each, available in ((1000, 10**9), (4, 10**6), (10**6, 10**10)):
        most = budget.most_directions(each, available)
        assert budget.needed_bytes(most * each, most) <= available < budget.needed_bytes((most + 1) * each, most + 1)


@pytest.mark.parametrize(
    ("count", "text"), [(280, "280 bytes"), (1.24e6, "1.24 MB"), (36e9, "36 GB"), (2e15, "2000 TB")]
)
def test_bytes_are_written_with_a_unit(count: float, text: str) -> None:
    assert budget.readable(count) == text


def test_convolutional_directions_are_selected_in_the_form_they_are_kept() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 36, 3)).double()
    generator = torch.Generator().manual_seed(0)
    parts = []
    for _ in range(2):
        x = torch.randn(10, 1, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 3, (10,), generator=generator)
        parts.append(TaskData((x, y), (x, y)))
    plugin = OGD(directions_per_task=10, max_directions=12)
    strategy = learner(model, plugin)
    for experience in benchmark_from_tensors(parts).train_stream:
        strategy.train(experience, eval_streams=[])
    assert {name: type(rows).__name__ for name, rows in plugin.memory.rows.items()} == {
        "0": "DenseRows",
        "3": "FactoredRows",
    }
    assert len(plugin.memory) == 12
    rebuilt = DirectionMemory(plugin.memory.rows).gram()
    torch.testing.assert_close(rebuilt, plugin.memory.gram(), rtol=1e-12, atol=1e-12)
