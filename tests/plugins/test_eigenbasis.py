"""Training in the eigenbasis is plain training: same weights, same function, whoever looks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from avalanche.core import SupervisedPlugin
from harness import learner, tasks, weights
from nets import mlp
from torch import nn

from ong.plugins import NCL, ONG, Diagnostics
from ong.streams import InMemoryLoader, TensorLoader

pytestmark = pytest.mark.filterwarnings("ignore:No loggers")

VERSIONS: dict[str, Any] = {
    "ong-prior": lambda **o: ONG(damping=0.05, directions_per_task=6, **o),
    "with a pull": lambda **o: ONG(damping=0.05, directions_per_task=6, pull=0.3, **o),
    "prior, euclidean": lambda **o: ONG(damping=0.05, directions_per_task=6, projection="euclidean", **o),
    "ncl": lambda **o: NCL(damping=0.05, **o),
    "ngd": lambda **o: ONG(metric="current", projection="none", damping=0.05, refresh_every=7, **o),
    "ong-v1": lambda **o: ONG(
        metric="current", projection="euclidean", damping=0.05, directions_per_task=6, refresh_every=7, **o
    ),
    "current, metric": lambda **o: ONG(metric="current", damping=0.05, directions_per_task=6, refresh_every=7, **o),
}


def trained(version: str, eigenbasis: bool, dtype: torch.dtype, **sgd: Any) -> tuple[torch.Tensor, Any]:
    plugin = VERSIONS[version](eigenbasis=eigenbasis)
    model = nn.Sequential(nn.Flatten(), *mlp(6, 12, 8, 3, dtype=dtype))
    strategy = learner(model, InMemoryLoader(), Diagnostics(every=3), plugin, lr=0.05, batch=4, epochs=9, **sgd)
    used = []
    for experience in tasks(4, dtype=dtype).train_stream:
        strategy.train(experience, eval_streams=[])
        used.append(plugin.plain_because)
    assert used == [None if eigenbasis else "eigenbasis=False"] * 4
    return weights(model), strategy


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sgd", [{}, {"momentum": 0.8}, {"momentum": 0.8, "nesterov": True}], ids=str)
def test_216_steps_in_the_eigenbasis_end_at_the_same_weights(version: str, sgd: dict[str, Any]) -> None:
    plain, _ = trained(version, False, torch.float64, **sgd)
    rotated, _ = trained(version, True, torch.float64, **sgd)
    # round-off of 216 steps and of rotating in and out each epoch; NCL and momentum amplify it a little
    torch.testing.assert_close(rotated, plain, rtol=0, atol=1e-10)


def test_in_float32_they_agree_to_1e4() -> None:
    plain, _ = trained("ong-prior", False, torch.float32)
    rotated, _ = trained("ong-prior", True, torch.float32)
    torch.testing.assert_close(rotated, plain, rtol=0, atol=1e-4)


def test_diagnostics_are_those_of_plain_training() -> None:
    measures = []
    for eigenbasis in (False, True):
        _, strategy = trained("ong-prior", eigenbasis, torch.float64)
        (diagnostics,) = (p for p in strategy.plugins if isinstance(p, Diagnostics))
        measures.append(diagnostics.measures)
    for name in ("leak_unseen", "descent_cosine"):
        for one, other in zip(measures[0][name], measures[1][name], strict=True):
            assert one is other is None or one == pytest.approx(other, rel=1e-6)


class Looker(SupervisedPlugin):
    """Looks at the model in the middle of an epoch as checkpointing code would."""

    coordinate_free = True  # it asks through state_dict and forward, which tell the truth

    def __init__(self, x: torch.Tensor) -> None:
        super().__init__()
        self.x, self.pairs, self.rotated = x, [], 0

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        inside = strategy.model(self.x).detach()
        copied = copy.deepcopy(strategy.model)
        self.rotated += any(hasattr(m, "_ong_held") for m in strategy.model.modules())
        fresh = nn.Sequential(nn.Flatten(), *mlp(6, 12, 8, 3))
        fresh.load_state_dict(strategy.model.state_dict())
        self.pairs.append((inside, fresh(self.x).detach(), copied(self.x).detach()))


def test_whoever_looks_in_between_sees_the_original_coordinates() -> None:
    model = nn.Sequential(nn.Flatten(), *mlp(6, 12, 8, 3))
    stream = tasks(2).train_stream
    x = torch.stack([item[0] for item in stream[0].dataset])
    looker = Looker(x)
    strategy = learner(model, InMemoryLoader(), looker, ONG(damping=0.05, directions_per_task=6))
    for experience in stream:
        strategy.train(experience, eval_streams=[])
    assert looker.rotated == 3  # every step of the second task was one in the eigenbasis
    for inside, loaded, copied in looker.pairs:
        torch.testing.assert_close(inside, loaded)
        torch.testing.assert_close(inside, copied)
    assert not any(hasattr(module, "_ong_held") for module in model.modules())
    assert all("forward" not in vars(module) for module in model.modules())


def test_periodic_evaluation_within_an_epoch_changes_nothing() -> None:
    ends = []
    for every in (-1, 1):
        model = nn.Sequential(nn.Flatten(), *mlp(6, 12, 8, 3))
        strategy = learner(model, InMemoryLoader(), ONG(damping=0.05, directions_per_task=6), epochs=2)
        strategy.plugins[-2].eval_every, strategy.plugins[-2].peval_mode = every, "iteration"
        benchmark = tasks(3)
        for experience in benchmark.train_stream:
            strategy.train(experience, eval_streams=[benchmark.test_stream] if every > 0 else [])
        ends.append(weights(model))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("version", "columns"), [("ong-prior", [3, 4]), ("ngd", [4, 4]), ("ong-v1", [4, 4])])
def test_inputs_are_rotated_once_a_task_where_they_lie_in_memory(version: str, columns: list[int]) -> None:
    class Loaders(SupervisedPlugin):
        def __init__(self) -> None:
            super().__init__()
            self.columns: list[int] = []

        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            assert isinstance(strategy.dataloader, TensorLoader)
            self.columns.append(len(strategy.dataloader.columns))

    loaders = Loaders()
    loaders.coordinate_free = True  # type: ignore[attr-defined]
    model = nn.Sequential(nn.Flatten(), *mlp(6, 12, 8, 3))
    strategy = learner(model, InMemoryLoader(), loaders, VERSIONS[version]())
    for experience in tasks(2).train_stream:
        strategy.train(experience, eval_streams=[])
    assert loaders.columns == columns


class Penalty(SupervisedPlugin):
    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        strategy.loss += sum(p.square().sum() for p in strategy.model.parameters())


class Reading(nn.Module):
    """Reads a layer's weight itself, as a number."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(6, 5), nn.Linear(5, 3).to(torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x)) * self.head.weight.detach().sum()


def test_where_it_is_not_exact_training_is_plain_and_says_why() -> None:
    def reason(model: nn.Module, *others: Any, optimizer: Any = None) -> str | None:
        plugin = ONG(damping=0.05, directions_per_task=6)
        strategy = learner(model, *others, plugin)
        if optimizer is not None:
            strategy.optimizer = optimizer(model.parameters())
        for experience in tasks(2).train_stream:
            strategy.train(experience, eval_streams=[])
        return plugin.plain_because

    assert reason(mlp(6, 5, 3)) is None
    assert reason(mlp(6, 5, 3), Penalty()) == "Penalty works on the original coordinates"
    assert reason(Reading()) == "the model's code reads the weights of its layers itself"
    with pytest.warns(UserWarning, match="Adam"):
        assert reason(mlp(6, 5, 3), optimizer=torch.optim.Adam) == "Adam scales coordinates"
