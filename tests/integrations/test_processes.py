"""In several processes every method measures, keeps and steps as in one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.loops import METHODS, OPTIMIZERS, plain
from torch.utils.data import BatchSampler, DataLoader, SubsetRandomSampler, TensorDataset
from torch.utils.data.distributed import DistributedSampler

import ong.methods.data
from ong.errors import UserError
from ong.integrations import check_trains
from ong.methods import Examples

pytest.importorskip("lightning")
pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from accelerate.data_loader import prepare_data_loader, skip_first_batches

CPU = torch.device("cpu")
DATA = TensorDataset(torch.arange(40.0)[:, None], torch.arange(40) % 3)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """The weights each loop ends with, in each of two processes."""
    folder = tmp_path_factory.mktemp("processes")
    program = Path(__file__).with_name("two_processes.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([*launch, str(program), str(folder)], env=quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("loop", ["plain", "lightning", "transformers"])
def test_two_processes_with_half_a_batch_each_end_as_one(loop: str, ends: list[dict[str, torch.Tensor]]) -> None:
    assert torch.equal(ends[0][loop], ends[1][loop])
    # the same examples are measured; a batch's mean is a mean of two halves: rounding of float64
    torch.testing.assert_close(ends[0][loop], plain(METHODS["ONGPrior"](), OPTIMIZERS["AdamW"]), rtol=0, atol=1e-9)


def drawn(data: Any, count: int = 15, **options: Any) -> list[float]:
    batches = Examples(data, CPU).draw(count, torch.Generator().manual_seed(4), **options)
    return torch.cat([batch[0] for batch in batches]).flatten().tolist()


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[Any]], list[list[float]]]:
    """What several processes draw together, from the data of each, and what each of them loads for it."""

    def draw(data: Sequence[Any]) -> list[list[float]]:
        loaded: list[Any] = []

        def gather(everyone: list[Any], own: Any) -> None:
            if isinstance(own, tuple):  # whether the processes hold the same data
                everyone[:] = [own] * len(data)
                return
            if len(loaded) < len(data):
                loaded.append(own)
            everyone[:] = [*loaded, *[own] * (len(data) - len(loaded))]

        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: len(data))
        monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
        for _ in range(2):  # in the second round every process has loaded its share
            found = []
            for rank, of_process in enumerate(data):
                monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
                found.append(drawn(of_process))
        assert sum(len(batch[0]) for share in loaded for batch in share) == len(found[0])  # nothing was loaded twice
        return found

    return draw


def loaders(rank: int, processes: int) -> dict[str, Any]:
    """Ways to give one process its data."""
    plain_loader = DataLoader(DATA, batch_size=4, shuffle=True)
    options = {"num_processes": processes, "process_index": rank, "put_on_device": False}
    return {
        "tensors": list(DATA.tensors),
        "data set": DATA,
        "accelerate": prepare_data_loader(plain_loader, **options),
        "accelerate with its own shuffling": prepare_data_loader(plain_loader, use_seedable_sampler=True, **options),
        "distributed sampler": DataLoader(DATA, 4, sampler=DistributedSampler(DATA, processes, rank, shuffle=True)),
    }


@pytest.mark.parametrize("data", loaders(0, 1))
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_draw_what_one_would(
    data: str, processes: int, together: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ong.methods.data, "_BATCH", 4)
    alone = drawn(DATA)
    assert together([loaders(rank, processes)[data] for rank in range(processes)]) == [alone] * processes


def test_processes_with_other_examples_draw_as_many_of_each(together: Callable[..., Any]) -> None:
    halves = [TensorDataset(DATA.tensors[0][part], DATA.tensors[1][part]) for part in (slice(0, 20), slice(20, 40))]
    streams = [list(DataLoader(half, batch_size=4)) for half in halves]
    first, second = together([iter_again(stream) for stream in streams])
    assert first == second
    assert (len({x for x in first if x < 20}), len({x for x in first if x >= 20})) == (8, 7)


def iter_again(batches: list[Any]) -> Any:
    """Batches that can only be gone through."""

    class Stream:
        def __iter__(self) -> Iterator[Any]:
            return iter(batches)

    return Stream()


def test_drawing_from_a_shuffled_accelerate_loader_is_by_number_and_leaves_the_order_of_its_batches_alone() -> None:
    orders = []
    for draws in (False, True):
        torch.manual_seed(0)
        shuffled = prepare_data_loader(DataLoader(DATA, batch_size=4, shuffle=True), put_on_device=False)
        if draws:
            assert drawn(shuffled) == drawn(DATA)
        orders.append([batch[0].flatten().tolist() for batch in shuffled])
    assert orders[0] == orders[1]


def test_a_loader_that_skips_its_first_batches_is_drawn_from_as_a_whole() -> None:
    whole = prepare_data_loader(DataLoader(DATA, batch_size=4), put_on_device=False)
    assert drawn(skip_first_batches(whole, 9)) == drawn(DATA)


def test_a_sampler_of_some_examples_is_drawn_from_through_its_batches() -> None:
    some = DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler([1, 4, 5, 9, 30]), 2, drop_last=False))
    for data in (some, prepare_data_loader(some, put_on_device=False)):
        assert sorted(drawn(data)) == [1, 4, 5, 9, 30]


def test_parameters_in_pieces_are_refused() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        model = fully_shard(torch.nn.Linear(3, 2), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UserError, match="the Trainer spreads the parameters over processes"):
            check_trains("the Trainer", model, torch.optim.SGD(model.parameters(), lr=0.1))
    finally:
        torch.distributed.destroy_process_group()


def test_optimizers_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="steps cannot be rewritten, object"):
        check_trains("the Trainer", torch.nn.Linear(3, 2), object())
