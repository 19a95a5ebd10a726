"""Convolutions whose gradients are kept as inputs and cotangents, against autograd example by example."""

from __future__ import annotations

import pytest
import torch
from nets import jacobian, seeded, unflat
from torch import Tensor, nn

from ong.curvature import EKFAC, Metric, find_blocks
from ong.projection import (
    DenseRows,
    DirectionMemory,
    EuclideanProjection,
    FactoredRows,
    MetricProjection,
    PatchRows,
    collect_directions,
    matrix_bytes,
    worked_with,
)
from ong.projection.patches import Convolution

CONVOLUTIONS: dict[str, tuple[nn.Conv2d, type]] = {
    "padded": (nn.Conv2d(6, 7, 3, padding=1), PatchRows),
    "without bias": (nn.Conv2d(6, 7, 3, padding=1, bias=False), PatchRows),
    "stride leaves pixels over": (nn.Conv2d(6, 7, 3, stride=2, padding=(1, 0)), PatchRows),
    "dilated, not square": (nn.Conv2d(6, 8, (2, 3), dilation=2, padding=(1, 2)), PatchRows),
    "one tap": (nn.Conv2d(6, 40, 1, stride=5), FactoredRows),  # one position
    "groups": (nn.Conv2d(6, 8, 3, padding=1, groups=2), DenseRows),
    "reflected": (nn.Conv2d(6, 7, 3, padding=1, padding_mode="reflect"), DenseRows),
    "same": (nn.Conv2d(6, 7, 3, padding="same"), DenseRows),
    "few channels": (nn.Conv2d(6, 2, 3, padding=1), DenseRows),
}


def net(convolution: nn.Conv2d) -> nn.Module:
    layers = nn.Sequential(nn.Conv2d(1, 6, 1), nn.Tanh(), convolution, nn.Tanh(), nn.Flatten(), nn.LazyLinear(3))
    layers(torch.zeros(1, 1, 5, 4))
    return seeded(layers, torch.Generator().manual_seed(0))


def batch(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 1, 5, 4, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, 3, (count,), generator=generator)


def dense(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The directions as ``[parameters, M]``."""
    return jacobian(model, x, find_blocks(model))[torch.arange(len(y)), y].T


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_gradients_of_convolutions_are_kept_exactly_in_the_fewest_numbers(case: str) -> None:
    convolution, kind = CONVOLUTIONS[case]
    model = net(convolution)
    blocks = find_blocks(model)
    memory = DirectionMemory()
    columns = []
    for seed in (1, 2):
        memory.extend(collect_directions(model, batch(4, seed), blocks=blocks), blocks)
        columns.append(dense(model, *batch(4, seed)))
    expected = torch.cat(columns, 1)
    assert type(memory.rows["2"]) is kind
    v = torch.randn(len(expected), generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    torch.testing.assert_close(memory.dot(unflat(v, blocks)), expected.T @ v, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(memory.gram(), expected.T @ expected, rtol=1e-11, atol=1e-12)
    assert memory.rows["2"].bytes <= min(8 * 8 * blocks["2"].shape[0] * blocks["2"].shape[1], memory.bytes)


@pytest.mark.parametrize("kind", ["gtl", "all"])
def test_directions_collected_in_pieces_are_those_collected_at_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = net(nn.Conv2d(6, 7, 3, padding=1))
    blocks = find_blocks(model)
    whole = DirectionMemory(collect_directions(model, batch(5), kind=kind, blocks=blocks))  # type: ignore[arg-type]
    monkeypatch.setattr("ong.projection.directions._NUMBERS", 6000)  # 2,800 an example
    parts = DirectionMemory(collect_directions(model, batch(5), kind=kind, blocks=blocks))  # type: ignore[arg-type]
    v = {name: torch.ones(block.shape, dtype=torch.float64) for name, block in blocks.items()}
    torch.testing.assert_close(parts.dot(v), whole.dot(v), rtol=1e-12, atol=1e-14)  # the same order too
    assert {n: type(r) for n, r in parts.rows.items()} == {n: type(r) for n, r in whole.rows.items()}


@pytest.mark.parametrize("rank", [3, None])
@pytest.mark.parametrize("budget", [0, 7 * 55 * 6 * 8, 10**9])
def test_projections_leave_true_gradients_alone_in_whatever_form_they_work(budget: int, rank: int | None) -> None:
    """Kept as patches and worked with so, or as matrices: Gᵀv = 0 for gradients by autograd."""
    model = net(nn.Conv2d(6, 7, 3, padding=1))
    blocks = find_blocks(model)
    x, y = batch(6)
    memory = DirectionMemory(collect_directions(model, (x, y), blocks=blocks))
    worked = worked_with(memory, budget)
    kept_as = {n: type(rows) for n, rows in memory.rows.items()}
    assert kept_as == {"0": DenseRows, "2": PatchRows, "5": FactoredRows}
    assert isinstance(worked.rows["2"], DenseRows if budget else PatchRows)
    assert worked.rows["5"] is memory.rows["5"]  # one position: factors are faster
    g = dense(model, x, y)
    ekfac = EKFAC(rank)
    ekfac.add(model, [batch(20, 3)], blocks=blocks)
    metric = Metric(ekfac, blocks, 0.1)
    v = unflat(torch.randn(len(g), generator=torch.Generator().manual_seed(5), dtype=torch.float64), blocks)
    images = torch.stack([_flat(metric.precondition(unflat(column, blocks))) for column in g.T], 1)
    torch.testing.assert_close(memory.gram_in(metric), g.T @ images, rtol=1e-9, atol=1e-12)
    for projection in (EuclideanProjection(memory, worked), MetricProjection(memory, metric, worked)):
        assert (g.T @ _flat(projection(v))).abs().max() < 1e-10
    torch.testing.assert_close(
        _flat(MetricProjection(memory, metric, worked)(v)), _flat(MetricProjection(memory, metric)(v))
    )


def test_matrices_take_the_place_of_the_most_positions_first_within_a_budget() -> None:
    def factored(positions: int) -> FactoredRows:
        return FactoredRows(torch.ones(2, positions, 50), torch.ones(2, positions, 40))

    rows = {"few": factored(7), "some": factored(9), "many": factored(12), "wide": wide_rows(20)}
    each, wide = 10 * 50 * 40 * 4, 10 * 27 * 30 * 4
    assert matrix_bytes(rows, 10) == {"wide": wide, "many": each, "some": each}
    assert matrix_bytes(rows, 10, wide + each) == {"wide": wide, "many": each}
    assert matrix_bytes(rows, 10, each) == {"wide": wide}
    assert matrix_bytes(rows, 10, 0) == {}


def wide_rows(positions: int) -> PatchRows:
    where = Convolution((3, 3), (1, 1), (1, 1), (1, 1))
    return PatchRows(torch.ones(2, 3, positions, 1), torch.ones(2, 30, positions, 1), where, bias=False)


def _flat(vector: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in vector.values()])
