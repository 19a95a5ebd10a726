"""An EKFAC of few columns against the full one, and against its formula written out as a dense matrix."""

from __future__ import annotations

import pytest
import torch
from nets import diagonal_blocks, fisher, flat, jacobian, mlp, seeded, unflat, written_out
from torch import Tensor, nn

from ong.curvature import EKFAC, DiagonalBlock, EigenBlock, Metric, find_blocks

WIDTHS = (8, 6, 3)
RANKS = (1, 3, 5)
NUMBERS = 9 * 6 + 7 * 3


def task(seed: int, examples: int = 30) -> tuple[Tensor, Tensor]:
    """Examples whose inputs have a spectrum of their own, so that merging turns the basis."""
    generator = torch.Generator().manual_seed(seed)
    scales = 2.0 ** -torch.randperm(8, generator=generator)
    x = torch.randn(examples, 8, generator=generator, dtype=torch.float64) * scales
    return x, torch.randint(0, 3, (examples,), generator=generator)


def fitted(rank: int | None, tasks: int = 1) -> tuple[nn.Module, EKFAC]:
    model, ekfac = mlp(*WIDTHS), EKFAC(rank)
    for seed in range(tasks):
        ekfac.add(model, [task(seed)], fisher="exact")
    return model, ekfac


def vector() -> Tensor:
    return torch.randn(NUMBERS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def eigen(ekfac: EKFAC, name: str) -> EigenBlock:
    block = ekfac.blocks[name]
    assert isinstance(block, EigenBlock)
    return block


def identity(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def diagonal_in(block: EigenBlock, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Of a matrix over a block's parameters, in the block's basis: the diagonal on the leading columns, rows' sums."""
    basis = torch.kron(block.outputs_basis, block.inputs_basis)
    rows = torch.kron(block.outputs_basis, identity(block.shape[1]))
    diagonal = (basis.T @ matrix @ basis).diagonal().reshape(block.shape[0], -1)
    return diagonal, (rows.T @ matrix @ rows).diagonal().reshape(block.shape).sum(1)


@pytest.mark.parametrize("rank", RANKS)
def test_the_trace_is_the_fishers_before_and_after_merging(rank: int) -> None:
    model, thin = fitted(rank, 0)
    total = 0.0
    for seed in range(4):
        x, y = task(seed)
        thin.add(model, [(x[:20], y[:20]), (x[20:], y[20:])], fisher="exact")
        total += float(fisher(jacobian(model, x), model(x)).trace())
        # sums of 30 float64 numbers, squared: round-off only
        assert thin.trace() == pytest.approx(total, rel=1e-12)
        for block in thin.blocks.values():
            assert float(torch.trace(written_out(block))) == pytest.approx(block.trace(), rel=1e-12)


@pytest.mark.parametrize("rank", RANKS)
def test_what_a_rank_does_not_tell_apart_is_the_trace_off_its_columns(rank: int) -> None:
    model, thin = fitted(rank)
    x, _ = task(0)
    whole = fisher(jacobian(model, x), model(x))
    sizes = [block.shape[0] * block.shape[1] for block in thin.blocks.values()]
    parts = [whole[: sizes[0], : sizes[0]], whole[sizes[0] :, sizes[0] :]]
    inside = 0.0
    for name, part in zip(thin.blocks, parts, strict=True):
        block = eigen(thin, name)
        inside += float(diagonal_in(block, part)[0].sum()) if block.others else float(part.trace())
    assert thin.shared == pytest.approx(1 - inside / float(whole.trace()), rel=1e-10)
    assert fitted(None)[1].shared == 0
    assert EKFAC(rank).shared == 0


@pytest.mark.parametrize("rank", RANKS)
def test_it_is_positive_after_merging(rank: int) -> None:
    _, thin = fitted(rank, 3)
    for name, block in thin.blocks.items():
        assert torch.linalg.eigvalsh(written_out(block))[0] >= -1e-15  # of the largest, about 0.1
        assert eigen(thin, name).inputs_rest > 0


@pytest.mark.parametrize("rank", [9, 100])
def test_of_all_columns_it_is_the_full_one(rank: int) -> None:
    (_, thin), (_, full) = fitted(rank, 3), fitted(None, 3)
    for name, block in full.blocks.items():
        for key, value in block.state_dict().items():
            assert torch.equal(torch.as_tensor(getattr(thin.blocks[name], key)), torch.as_tensor(value))
        assert eigen(full, name).others == 0


@pytest.mark.parametrize("rank", RANKS)
def test_its_columns_lead_and_its_eigenvalues_are_the_exact_fishers_there(rank: int) -> None:
    (model, thin), (_, full) = fitted(rank), fitted(None)
    x, _ = task(0)
    exact = diagonal_blocks(fisher(jacobian(model, x), model(x)), find_blocks(model))
    for name in thin.blocks:
        few = eigen(thin, name)
        values = torch.linalg.eigvalsh(eigen(full, name).inputs_cov).flip(0)
        torch.testing.assert_close(few.inputs_values, values[:rank], rtol=1e-10, atol=0)
        torch.testing.assert_close(few.inputs_rest, values[rank:].mean(), rtol=1e-10, atol=0)
        diagonal, totals = diagonal_in(few, exact[name])
        torch.testing.assert_close(few.eigenvalues, diagonal, rtol=1e-10, atol=1e-15)
        rest = (totals - diagonal.sum(1)) / (few.shape[1] - rank)
        torch.testing.assert_close(few.rest, rest, rtol=1e-9, atol=1e-15)


def test_inputs_of_few_directions_lose_nothing() -> None:
    model = mlp(*WIDTHS)
    x, y = task(0)
    x[:, 3:] = x[:, :3] @ torch.ones(3, 5, dtype=torch.float64)  # three directions, and the bias's
    thin, full = (EKFAC.fit(model, [(x, y)], fisher="exact", rank=rank) for rank in (4, None))
    # eigenvectors of the value 0 are free in both, and F is 0 along all of them
    torch.testing.assert_close(written_out(thin.blocks["0"]), written_out(full.blocks["0"]), rtol=0, atol=1e-14)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("power", [-1.0, -0.5, 0.5, 1.0])
def test_powers_are_those_of_the_damped_matrix(rank: int, power: float) -> None:
    model, thin = fitted(rank, 2)
    blocks, v = find_blocks(model), vector()
    whole = torch.block_diag(*(written_out(block) for block in thin.blocks.values())) + 0.1 * identity(NUMBERS)
    values, vectors = torch.linalg.eigh(whole)
    found = flat(thin.apply(unflat(v, blocks), power=power, damping=0.1), blocks)
    torch.testing.assert_close(found, vectors @ torch.diag(values**power) @ vectors.T @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("rank", RANKS)
def test_the_metrics_inverse_is_the_formula_and_the_inverse_of_the_dense_metric(rank: int) -> None:
    damping = 0.05
    model, thin = fitted(rank, 2)
    blocks, v = find_blocks(model), vector()
    metric = Metric(thin, blocks, damping)
    whole = torch.block_diag(*(written_out(block) for block in thin.blocks.values()))
    inverse = torch.linalg.inv(identity(NUMBERS) + whole / damping)
    found, curved = metric.precondition(unflat(v, blocks)), metric.curvature(unflat(v, blocks))
    torch.testing.assert_close(flat(found, blocks), inverse @ v, rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(flat(curved, blocks), whole @ v, rtol=1e-10, atol=1e-14)
    for name, matrix in unflat(v, blocks).items():
        block = eigen(thin, name)
        left, right = block.outputs_basis, block.inputs_basis
        s, s_rest = damping / (block.eigenvalues + damping), damping / (block.rest + damping)
        along = left @ ((s - s_rest[:, None]) * (left.T @ matrix @ right)) @ right.T
        expected = left @ torch.diag(s_rest) @ left.T @ matrix + along
        torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-14)
        several = metric.inverse[name](torch.stack([matrix, 2 * matrix, -matrix]))
        torch.testing.assert_close(several, torch.stack([expected, 2 * expected, -expected]))


@pytest.mark.parametrize("decay", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("rank", RANKS)
def test_merging_is_the_diagonal_of_both_fishers_in_the_new_basis(rank: int, decay: float) -> None:
    model, thin = fitted(rank, 2)
    before = {name: (written_out(block), eigen(thin, name)) for name, block in thin.blocks.items()}
    x, y = task(7)
    thin.add(model, [(x, y)], fisher="exact", decay=decay)
    alone = EKFAC.fit(model, [(x, y)], fisher="exact")
    new = diagonal_blocks(fisher(jacobian(model, x), model(x)), find_blocks(model))
    for name, (old, block) in before.items():
        merged = eigen(thin, name)
        values, vectors = torch.linalg.eigh(decay * block.inputs_cov + eigen(alone, name).inputs_cov)
        overlap = torch.linalg.svdvals(vectors[:, -rank:].T @ merged.inputs_basis)
        torch.testing.assert_close(overlap, torch.ones_like(overlap))  # the same span: all cosines are 1
        torch.testing.assert_close(merged.inputs_values, values.flip(0)[:rank], rtol=1e-9, atol=0)
        diagonal, totals = diagonal_in(merged, decay * old + new[name])
        torch.testing.assert_close(merged.eigenvalues, diagonal, rtol=1e-9, atol=1e-14)
        rest = (totals - diagonal.sum(1)) / merged.others
        torch.testing.assert_close(merged.rest, rest, rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize("shape", [(8, 9), (6, 12), (9, 11)], ids=["rows", "columns", "both"])
@pytest.mark.parametrize("rank", [3, None])
def test_what_a_layer_gains_has_no_curvature_and_the_rest_keeps_its_own(
    rank: int | None, shape: tuple[int, int]
) -> None:
    _, ekfac = fitted(rank, 2)
    old = eigen(ekfac, "0")
    grown = old.grown(*shape)
    assert grown.shape == shape
    expected = torch.zeros(*shape, *shape, dtype=torch.float64)
    expected[:6, :9, :6, :9] = written_out(old).reshape(6, 9, 6, 9)
    found = written_out(grown).reshape(*shape, *shape)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)  # of numbers up to 0.1
    basis = grown.inputs_basis
    assert basis.shape[1] == (9 if rank is None else rank + shape[1] - 9)  # thin still: what is new, and no more
    torch.testing.assert_close(basis.T @ basis, identity(basis.shape[1]), rtol=0, atol=1e-14)
    cov = torch.zeros(shape[1], shape[1], dtype=torch.float64)
    cov[:9, :9] = old.inputs_cov
    torch.testing.assert_close(grown.inputs_cov, cov, rtol=0, atol=1e-14)
    with pytest.raises(ValueError, match=r"a block cannot shrink from \(6, 9\) to \(5, 9\)"):
        old.grown(5, 9)


def test_a_grown_layer_goes_on_being_merged_within_its_rank() -> None:
    _, thin = fitted(3, 2)
    trace = thin.trace()
    wider = seeded(nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 5)), torch.Generator().manual_seed(0))
    x, y = task(5)
    thin.add(wider, [(x, y)], fisher="exact")
    assert thin.trace() == pytest.approx(trace + float(fisher(jacobian(wider, x), wider(x)).trace()), rel=1e-12)
    assert eigen(thin, "2").eigenvalues.shape == (5, 3)


def test_a_grown_diagonal_is_zero_on_what_is_new() -> None:
    block = DiagonalBlock(torch.arange(1.0, 7).reshape(2, 3))
    expected = torch.zeros(4, 5)
    expected[:2, :3] = block.eigenvalues
    assert torch.equal(block.grown(4, 5).eigenvalues, expected)
    with pytest.raises(ValueError, match=r"a block cannot shrink"):
        block.grown(2, 2)


def test_convolutions_have_the_trace_of_their_fisher_too() -> None:
    layers = nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)
    model = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0))
    x = torch.randn(12, 2, 6, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    thin = EKFAC(4)
    for seen in (x[:7], x[7:]):
        thin.add(model, [(seen,)], fisher="exact")
    total = sum(float(fisher(jacobian(model, seen), model(seen)).trace()) for seen in (x[:7], x[7:]))
    assert thin.trace() == pytest.approx(total, rel=1e-12)


def test_it_is_kept_in_the_weights_dtype_and_counts_its_bytes() -> None:
    single, double = mlp(*WIDTHS).float(), mlp(*WIDTHS)
    few, exact = EKFAC(3), EKFAC(3)
    for seed in range(3):
        x, y = task(seed)
        few.add(single, [(x.float(), y)], fisher="exact")
        exact.add(double, [(x, y)], fisher="exact")
    for name, block in few.blocks.items():
        kept = [value for value in block.state_dict().values() if isinstance(value, Tensor)]
        assert {tensor.dtype for tensor in kept} == {torch.float32}
        expected = written_out(exact.blocks[name])
        # float32 factors and bases: a few 1e-7 of the largest eigenvalue, and the merging's gaps on top
        assert torch.dist(written_out(block), expected) < 1e-5 * torch.linalg.norm(expected)
    # U, D and ρ; U_S and its values; Λ and τ
    first, second = 9 * 3 + 3 + 1 + 6 * 6 + 6 + 6 * 3 + 6, 7 * 3 + 3 + 1 + 3 * 3 + 3 + 3 * 3 + 3
    assert few.bytes == 4 * (first + second)
    assert exact.bytes == 8 * (first + second)


def test_state_goes_round_and_goes_on_the_same() -> None:
    model, thin = fitted(3, 2)
    copy = EKFAC(3)
    copy.load_state_dict(thin.state_dict())
    for ekfac in (thin, copy):
        ekfac.add(model, [task(9)], fisher="exact")
    assert all(torch.equal(written_out(thin.blocks[name]), written_out(copy.blocks[name])) for name in thin.blocks)
