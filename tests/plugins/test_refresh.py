"""The current task's EKFAC over a task: what a refresh takes anew, and what stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from avalanche.benchmarks import split_online_stream
from avalanche.core import SupervisedPlugin
from harness import learner, tasks
from nets import mlp
from torch import Tensor, nn

from ong.curvature import EKFAC, find_blocks
from ong.plugins import ONG

pytestmark = pytest.mark.filterwarnings("ignore:No loggers", "ignore:.*before_update runs after")


class Bases(SupervisedPlugin):
    """Notes the EKFAC of each step."""

    coordinate_free = True

    def __init__(self, plugin: ONG) -> None:
        super().__init__()
        self.plugin, self.ekfacs, self.models = plugin, [], []

    def after_update(self, strategy: Any, **kwargs: Any) -> None:
        ekfac = EKFAC()
        ekfac.load_state_dict(self.plugin.ekfac.state_dict())
        self.ekfacs.append(ekfac)
        self.models.append(copy.deepcopy(strategy.model))

    def inputs_of(self, name: str) -> list[Tensor]:
        return [ekfac.blocks[name].inputs_basis for ekfac in self.ekfacs]


def trained(model: nn.Module, *streams: Any, **options: Any) -> Bases:
    drawn = {"fisher_examples": 9} | options
    plugin = ONG(metric="current", projection="none", damping=0.05, refresh_every=2, **drawn)
    bases = Bases(plugin)
    strategy = learner(model, bases, plugin)  # three steps a task of 24 examples
    for experience in (experience for stream in streams for experience in stream):
        strategy.train(experience, eval_streams=[])
    return bases


def same(one: Tensor, other: Tensor) -> bool:
    return bool(torch.equal(one, other))


@pytest.mark.parametrize("eigenbasis", [True, False])
def test_a_refresh_keeps_the_basis_of_the_tasks_inputs_and_takes_all_else_anew(eigenbasis: bool) -> None:
    bases = trained(mlp(6, 5, 3), tasks(2).train_stream, eigenbasis=eigenbasis)
    of_first, of_second = bases.inputs_of("0"), bases.inputs_of("2")
    assert [same(of_first[k], of_first[k + 1]) for k in range(5)] == [True, True, False, True, True]
    assert [same(of_second[k], of_second[k + 1]) for k in range(5)] == [True, False, False, True, False]
    eigenvalues = [ekfac.blocks["0"].eigenvalues for ekfac in bases.ekfacs]
    assert [same(eigenvalues[k], eigenvalues[k + 1]) for k in range(5)] == [True, False, False, True, False]


def test_the_basis_of_the_inputs_is_that_of_all_of_a_tasks_inputs() -> None:
    stream = tasks(2).train_stream
    first = trained(mlp(6, 5, 3), stream).ekfacs[-1].blocks["0"]
    x = torch.stack([item[0] for item in stream[1].dataset])
    ones = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    torch.testing.assert_close(first.inputs_cov, ones.T @ ones / len(x), rtol=1e-12, atol=1e-14)
    diagonal = first.inputs_basis.T @ first.inputs_cov @ first.inputs_basis
    torch.testing.assert_close(diagonal, torch.diag(diagonal.diagonal()), rtol=0, atol=1e-13)


@pytest.mark.parametrize("eigenbasis", [True, False])
def test_a_refresh_is_the_ekfac_of_that_moments_weights_where_it_takes_all_examples(eigenbasis: bool) -> None:
    stream = tasks(1).train_stream
    bases = trained(mlp(6, 5, 3), stream, eigenbasis=eigenbasis, fisher="exact", fisher_examples=24)
    x = torch.stack([item[0] for item in stream[0].dataset])
    anew = EKFAC.fit(bases.models[1], [(x,)], fisher="exact")  # before the third step
    generator = torch.Generator().manual_seed(0)
    blocks = find_blocks(bases.models[1])
    v = {n: torch.randn(block.shape, generator=generator, dtype=x.dtype) for n, block in blocks.items()}
    for name, expected in anew.apply(v, damping=0.05).items():
        torch.testing.assert_close(bases.ekfacs[2].apply(v, damping=0.05)[name], expected, rtol=1e-9, atol=1e-12)


class Squared(nn.Module):
    """Gives its first layer something else than the batch's inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp(6, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x.square())


class Residual(Squared):
    """The identity at first, before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.residual = nn.Linear(6, 6, dtype=torch.float64)
        self.residual.requires_grad_(False)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x + self.residual(x))


@pytest.mark.parametrize("model", [Squared, Residual])
def test_where_no_layer_reads_the_inputs_all_is_taken_anew(model: type[nn.Module]) -> None:
    of_first = trained(model(), tasks(1).train_stream).inputs_of("body.0")
    assert [same(of_first[k], of_first[k + 1]) for k in range(2)] == [True, False]


def test_where_inputs_do_not_lie_in_memory_all_is_taken_anew() -> None:
    stream = tasks(1).train_stream
    dataset = stream[0]._dataset
    stream[0]._dataset = dataset.eval().replace_current_transform_group((lambda x: x, None)).train()
    of_first = trained(mlp(6, 5, 3), stream).inputs_of("0")
    assert [same(of_first[k], of_first[k + 1]) for k in range(2)] == [True, False]


def test_inputs_that_are_not_finite_are_an_error_where_their_basis_is_kept() -> None:
    stream = tasks(1).train_stream
    stream[0].dataset[0][0].fill_(torch.nan)
    with pytest.raises(ValueError, match="not finite"):
        trained(mlp(6, 3), stream, fisher="logit")


def test_a_piece_whose_refresh_failed_leaves_the_next_one_to_prepare_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ONG(metric="current", projection="none", damping=0.05)
    strategy = learner(mlp(6, 5, 3), plugin)
    first, second, *_ = split_online_stream(
        tasks(1).train_stream, experience_size=8, seed=0, access_task_boundaries=True
    )
    with monkeypatch.context() as patch:
        patch.setattr(EKFAC, "add", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            strategy.train(first, eval_streams=[])
    strategy.train(second, eval_streams=[])
    assert plugin.ekfac.blocks.keys() == {"0", "2"}


def test_pieces_of_an_online_stream_whose_inputs_may_drift_have_bases_of_their_own() -> None:
    online = split_online_stream(tasks(1).train_stream, experience_size=8, access_task_boundaries=True)
    of_first = trained(mlp(6, 5, 3), online).inputs_of("0")
    assert [same(of_first[k], of_first[k + 1]) for k in range(2)] == [True, False]
