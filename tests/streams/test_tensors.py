import numpy as np
import pytest
import torch

from ong.streams.tensors import Segments, TensorLoader, epoch_order

PARTS = [torch.arange(20).view(5, 2, 2) + 100 * k for k in range(3)]


@pytest.mark.parametrize("rows", [None, [14, 0, 7, 7, 5, 4]], ids=["all", "selected"])
def test_segments_index_like_their_concatenation(rows: list[int] | None) -> None:
    whole = torch.cat(PARTS)
    segments = Segments(PARTS)
    if rows is not None:
        whole, segments = whole[rows], segments.select(torch.tensor(rows))
    assert len(segments) == len(whole)
    index = torch.tensor([3, 0, 5, 5, 1])
    assert torch.equal(segments[index], whole[index])
    assert torch.equal(segments[1:5], whole[1:5])


def test_segments_compose_selections_and_concatenations() -> None:
    a, b = Segments(PARTS[:2]).select(torch.tensor([9, 1, 2])), Segments(PARTS[2:])
    whole = torch.cat([torch.cat(PARTS[:2])[[9, 1, 2]], PARTS[2]])
    both = Segments.concat([a, b]).select(torch.tensor([7, 2, 0, 3]))
    assert torch.equal(both[0:4], whole[[7, 2, 0, 3]])


def test_a_slice_of_one_part_is_a_view() -> None:
    assert Segments(PARTS[:1])[1:3].data_ptr() == PARTS[0][1:3].data_ptr()


def test_epoch_order_is_a_permutation_that_depends_on_seed_and_epoch() -> None:
    orders = [epoch_order(50, seed, epoch) for seed in [(0, 0), (0, 1), (1, 0)] for epoch in (0, 1)]
    assert all(torch.equal(order.sort().values, torch.arange(50)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert torch.equal(epoch_order(50, (0, 1), 1), orders[3])


@pytest.mark.parametrize("count", [1, 31, 32, 33, 2500])
@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_match_a_data_loader_over_the_same_order(count: int, drop_last: bool) -> None:
    from torch.utils.data import DataLoader, TensorDataset

    x, y = torch.rand(count, 1, 2, 2), torch.arange(count)
    ours = TensorLoader([x, y], batch_size=32, shuffle=True, seed=7, drop_last=drop_last)
    for epoch in range(2):
        stock = DataLoader(
            TensorDataset(x, y),
            batch_size=32,
            sampler=epoch_order(count, (7,), epoch).tolist(),
            drop_last=drop_last,
        )
        assert len(ours) == len(stock)
        for mine, theirs in zip(ours, stock, strict=True):
            assert isinstance(mine, list)
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_unshuffled_batches_keep_the_order_in_every_epoch() -> None:
    loader = TensorLoader([torch.arange(10)], batch_size=4)
    for _ in range(2):
        assert [batch[0].tolist() for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_pass_that_was_broken_off_counts_as_an_epoch_and_an_epoch_can_be_set() -> None:
    loader = TensorLoader([torch.arange(100)], batch_size=100, shuffle=True, seed=3)
    next(iter(loader))
    assert loader.epoch == 1
    loader.epoch = 5
    assert torch.equal(next(iter(loader))[0], epoch_order(100, (3,), 5))


def test_shuffling_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    list(TensorLoader([torch.arange(10)], batch_size=4, shuffle=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_and_batch_size_may_be_integers_of_numpy() -> None:
    loaders = [
        TensorLoader([torch.arange(20)], batch_size=number(6), shuffle=True, seed=number(3))
        for number in (int, np.int64)
    ]
    for plain, numpy in zip(*loaders, strict=True):
        assert torch.equal(plain[0], numpy[0])


@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 8])], ids=["all", "selected"])
@pytest.mark.parametrize("parts", [1, 2])
def test_columns_stay_on_their_own_devices(rows: torch.Tensor | None, parts: int) -> None:
    # tensors on "meta" have no content: whatever moved them to the processor would fail
    there, here = (Segments([torch.zeros(5, 2, device=device)] * 2, rows) for device in ("meta", "cpu"))
    if parts == 1:
        there, here = (Segments([torch.zeros(10, 2, device=device)], rows) for device in ("meta", "cpu"))
    for shuffle in (False, True):
        for batch in TensorLoader([there, here], batch_size=2, shuffle=shuffle):
            assert [column.device.type for column in batch] == ["meta", "cpu"]
            assert batch[0].shape == batch[1].shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("rows", [None, torch.tensor([14, 0, 7])], ids=["all", "selected"])
@pytest.mark.parametrize("parts", [1, 3])
def test_an_index_may_lie_on_another_device_than_the_column(rows: torch.Tensor | None, parts: int) -> None:
    rows = rows if rows is None or parts == 3 else rows % 5
    here, there = (Segments([part.to(device) for part in PARTS[:parts]], rows) for device in ("cpu", "cuda"))
    index = torch.tensor([2, 0])
    for column in (here, there):
        for given in (index, index.cuda()):
            assert torch.equal(column[given].cpu(), here[index])
            assert column[given].device == column.parts[0].device


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"columns have lengths \[3, 2\]"):
        TensorLoader([torch.zeros(3), torch.zeros(2)], batch_size=1)
    with pytest.raises(ValueError, match="at least one column"):
        TensorLoader([], batch_size=1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        TensorLoader([torch.zeros(3)], batch_size=0)
