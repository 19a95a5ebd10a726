"""Two processes with half of every batch each (DistributedDataParallel, gloo), against one with all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from methods.loops import PARALLEL, SHARES, in_process, two_tasks
from torch import Tensor

Found = dict[tuple[str, str], tuple[Tensor, dict[str, Any]]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(in_process, args=(2, str(folder)), nprocs=2)
    first, second = (torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2))
    return first, second


each_kind = pytest.mark.parametrize("kind", SHARES)


@each_kind
@pytest.mark.parametrize("name", PARALLEL)
def test_two_processes_end_where_one_does(both: tuple[Found, Found], name: str, kind: str) -> None:
    alone, _ = two_tasks(name, 0, 1, kind)
    for found in both:
        torch.testing.assert_close(found[name, kind][0], alone, rtol=0, atol=1e-6)  # float64, other orders of sums


@each_kind
@pytest.mark.parametrize("name", PARALLEL)
def test_both_processes_keep_the_same_to_the_bit(both: tuple[Found, Found], name: str, kind: str) -> None:
    (weights, state), (others, other) = (found[name, kind] for found in both)
    assert torch.equal(weights, others)
    assert _leaves(state).keys() == _leaves(other).keys()
    for path, leaf in _leaves(state).items():
        same = torch.equal(leaf, _leaves(other)[path]) if isinstance(leaf, Tensor) else leaf == _leaves(other)[path]
        assert same, path
    assert any(
        isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel() for leaf in _leaves(state).values()
    )


def _leaves(state: Any, path: str = "") -> dict[str, Any]:
    if isinstance(state, dict):
        return {k: v for key, part in state.items() for k, v in _leaves(part, f"{path}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for key, part in enumerate(state) for k, v in _leaves(part, f"{path}/{key}").items()}
    return {path: state}
