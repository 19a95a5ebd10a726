"""Stored gradients of every kind multiply as the matrices they stand for."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
import torch
from nets import written_out
from torch import Tensor

from ong.curvature import DiagonalBlock, DiagonalOperator, EigenBlock, Factors, ThinOperator
from ong.projection import CombinedRows, DenseRows, FactoredRows, ImageRows, LookupRows, PatchRows, Rows
from ong.projection.derived import StackedRows, rows_from_state
from ong.projection.images import gram_of, image_of
from ong.projection.patches import Convolution
from ong.projection.rows import rows_from_factors
from ong.projection.slabs import expanded, gram_from

HEIGHT, WIDTH, M = 4, 6, 5
DAMPING = 0.3


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def eigenblock(columns: int) -> EigenBlock:
    """A positive F with some columns of their own."""
    left, right = (torch.linalg.qr(draw(n, n, seed=n)).Q for n in (HEIGHT, WIDTH))
    values, rest = draw(HEIGHT, columns).square(), draw(HEIGHT, seed=3).square()
    none = draw(columns).square()
    if columns == WIDTH:
        rest = 0 * rest
    return EigenBlock(right[:, :columns], none, none.new_zeros(()), left, none.new_zeros(HEIGHT), values, rest)


def factored(positions: int, seed: int = 0) -> tuple[Rows, Tensor]:
    a, d = draw(M, positions, WIDTH, seed=seed), draw(M, positions, HEIGHT, seed=seed + 1)
    dense = torch.stack([sum(torch.outer(d[m, t], a[m, t]) for t in range(positions)) for m in range(M)])
    return FactoredRows(a, d), dense


def dense() -> tuple[Rows, Tensor]:
    matrices = draw(M, HEIGHT, WIDTH, seed=5)
    return DenseRows(matrices), matrices


def patches(bias: bool) -> tuple[Rows, Tensor]:
    """Convolutions of 6 columns: five taps and a bias, and two rows of three taps with strides and padding."""
    kernel, stride, padding, dilation = ((1, 5), (1, 1), (0, 2), (1, 1)) if bias else ((2, 3), (2, 1), (1, 0), (1, 2))
    where = Convolution(kernel, stride, padding, dilation)
    x = draw(M, 1, 5, 7, seed=11)
    d = torch.randn_like(where.outputs(x, draw(HEIGHT, 5 + (not bias)), None))
    w, b = torch.zeros(HEIGHT, 1, *kernel, dtype=x.dtype), torch.zeros(HEIGHT, dtype=x.dtype)

    def pulled(weight: Tensor, ones: Tensor) -> Tensor:
        images = torch.nn.functional.conv2d(x, weight, ones, stride, padding, dilation)
        return (images * d).flatten(1).sum(1)

    weights, ones = torch.autograd.functional.jacobian(pulled, (w, b))
    matrices = torch.cat([weights.flatten(2), ones[:, :, None]], 2) if bias else weights.flatten(2)
    return PatchRows(x, d, where, bias), matrices


def lookups() -> tuple[Rows, Tensor]:
    """Rows that are looked up twice, and one that never is."""
    a, indices = draw(M, 3, WIDTH, seed=13), torch.tensor([[0, 1, 1], [3, 3, 3], [0, 3, 1], [1, 0, 3], [0, 0, 1]])
    codes = torch.eye(HEIGHT, dtype=a.dtype)[indices]
    return LookupRows(a, indices, HEIGHT), torch.einsum("mtr,mtc->mrc", codes, a)


def combined(rows: Rows, matrices: Tensor) -> tuple[Rows, Tensor]:
    weights = draw(M, 3, seed=8)
    return CombinedRows(rows, weights), torch.tensordot(weights.T, matrices, 1)


def image(fisher: EigenBlock | DiagonalBlock, damping: float | None) -> tuple[Rows, Tensor]:
    rows, matrices = factored(1)
    f = written_out(fisher)
    k = f if damping is None else damping * torch.linalg.inv(f + damping * torch.eye(len(f), dtype=f.dtype))
    return ImageRows(rows, fisher, damping), (matrices.flatten(1) @ k).reshape(M, HEIGHT, WIDTH)


def stacked(*parts: tuple[Rows, Tensor]) -> tuple[Rows, Tensor]:
    return StackedRows([rows for rows, _ in parts]), torch.cat([matrices for _, matrices in parts])


DIAGONAL = DiagonalBlock(draw(HEIGHT, WIDTH, seed=9).square())
KINDS: dict[str, Callable[[], tuple[Rows, Tensor]]] = {
    "factored": lambda: factored(1),
    "factored, positions": lambda: factored(3),
    "dense": dense,
    "patches": lambda: patches(bias=False),
    "patches with a bias": lambda: patches(bias=True),
    "lookups": lookups,
    "combined": lambda: combined(*factored(1)),
    "combined of dense": lambda: combined(*dense()),
    "image under the full F": lambda: image(eigenblock(WIDTH), None),
    "image under a thin F": lambda: image(eigenblock(2), None),
    "image under its metric": lambda: image(eigenblock(2), DAMPING),
    "image under a diagonal": lambda: image(DIAGONAL, DAMPING),
    "combined of patches": lambda: combined(*patches(bias=True)),
    "stacked": lambda: stacked(factored(1), dense(), combined(*factored(3)), image(eigenblock(2), DAMPING)),
    "stacked as collected": lambda: stacked(factored(3), dense(), patches(bias=True)),
}


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)  # float64 sums of tens of terms


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_the_matrices(kind: str) -> None:
    rows, matrices = KINDS[kind]()
    count = len(matrices)
    assert (len(rows), rows.shape) == (count, (HEIGHT, WIDTH))
    v, several, c = draw(HEIGHT, WIDTH, seed=20), draw(7, HEIGHT, WIDTH, seed=21), draw(count, seed=22)
    close(rows.dot(v), torch.einsum("mrc,rc->m", matrices, v))
    close(rows.dot(several), torch.einsum("mrc,brc->bm", matrices, several))
    close(rows.combine(c), torch.einsum("m,mrc->rc", c, matrices))
    close(rows.dense(torch.arange(count)), matrices)
    close(rows.dense(torch.tensor([count - 1, 0])), matrices[[count - 1, 0]])
    for start, stop in ((0, WIDTH), (0, 2), (1, 5), (4, 6), (5, 6)):
        close(rows.columns(start, stop), matrices[:, :, start:stop])


@pytest.mark.parametrize("numbers", [1, 50, 2**22])
@pytest.mark.parametrize("kind", KINDS)
def test_grams_are_those_of_the_matrices_all_at_once_and_in_parts(
    kind: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ong.projection.slabs._NUMBERS", numbers)
    rows, matrices = KINDS[kind]()
    flat = matrices.flatten(1)
    close(gram_from(rows, 0), flat @ flat.T)
    close(gram_from(rows, 2), flat[2:] @ flat.T)
    close(expanded(rows).matrices, matrices)


@pytest.mark.parametrize("operator", ["thin", "full", "diagonal"])
@pytest.mark.parametrize("kind", KINDS)
def test_grams_in_a_metric_are_those_of_the_matrices(kind: str, operator: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ong.projection.slabs._NUMBERS", 50)
    rows, matrices = KINDS[kind]()
    fisher = DIAGONAL if operator == "diagonal" else eigenblock(2 if operator == "thin" else WIDTH)
    m, flat = written_out(fisher) + DAMPING * torch.eye(HEIGHT * WIDTH, dtype=torch.float64), matrices.flatten(1)
    inverse = fisher.operator(lambda x: 1 / (x + DAMPING))
    close(gram_of([image_of(rows, inverse)]), flat @ torch.linalg.solve(m, flat.T))


def test_grams_of_numbers_in_float32_have_the_precision_of_float64() -> None:
    """Sums of 30,000 products: in float32 they would be off by 1e-7 at the least."""
    matrices = 1 + 0.1 * torch.randn(40, 150, 200, generator=torch.Generator().manual_seed(1))
    rows, flat = DenseRows(matrices), matrices.double().flatten(1)
    identity = ThinOperator(torch.zeros(200, 0), torch.eye(150), torch.zeros(150, 0), torch.eye(150))
    ones = DiagonalOperator(torch.ones(150, 200))
    expected = flat @ flat.T
    for found in (gram_from(rows, 0), gram_of([image_of(rows, ones)]), gram_of([image_of(rows, identity)])):
        assert (found - expected).abs().max() < 1e-12 * expected.max()


@pytest.mark.parametrize("kind", ["factored", "factored, positions", "patches", "patches with a bias"])
def test_products_of_a_matrix_with_gradients_stay_in_factors(kind: str) -> None:
    rows, matrices = KINDS[kind]()
    assert isinstance(rows, FactoredRows | PatchRows)
    left, right = draw(3, HEIGHT, seed=26), draw(WIDTH, 2, seed=27)
    close(rows.left(left).right(right).columns(0, 2), left @ matrices @ right)


@pytest.mark.parametrize("kind", KINDS)
def test_selected_rows_are_of_the_same_kind(kind: str) -> None:
    rows, matrices = KINDS[kind]()
    chosen = torch.tensor([0, 2]) if len(rows) < 10 else torch.tensor([0, 2, 6, 10, 14])
    found = rows.select(chosen)
    assert type(found) is type(rows)
    close(found.dense(torch.arange(len(chosen))), matrices[chosen])


def test_parts_of_which_nothing_is_left_are_gone() -> None:
    rows, matrices = KINDS["stacked"]()
    assert isinstance(rows.select(torch.tensor([0, 4])), FactoredRows)
    last = rows.select(torch.tensor([13, 14]))
    assert isinstance(last, ImageRows)
    close(last.dense(torch.arange(2)), matrices[13:15])
    two = rows.select(torch.tensor([4, 11]))
    assert isinstance(two, StackedRows)
    assert [type(part) for part in two.parts] == [FactoredRows, CombinedRows]


@pytest.mark.parametrize("shape", [(HEIGHT + 2, WIDTH), (HEIGHT, WIDTH + 3), (HEIGHT + 1, WIDTH + 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_layer_gains_is_zero_in_its_rows(kind: str, shape: tuple[int, int]) -> None:
    rows, matrices = KINDS[kind]()
    grown = rows.grown(*shape)
    expected = torch.zeros(len(rows), *shape, dtype=torch.float64)
    expected[:, :HEIGHT, :WIDTH] = matrices
    assert grown.shape == shape
    close(grown.dense(torch.arange(len(rows))), expected)
    v = draw(*shape, seed=23)
    close(grown.dot(v), torch.einsum("mrc,rc->m", expected, v))


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_round_through_a_file(kind: str) -> None:
    rows, _ = KINDS[kind]()
    file = io.BytesIO()
    torch.save(rows.state_dict(), file)
    file.seek(0)
    copy = rows_from_state(torch.load(file, weights_only=True))
    v = draw(3, HEIGHT, WIDTH, seed=24)
    assert type(copy) is type(rows)
    assert torch.equal(copy.dot(v), rows.dot(v))
    assert copy.bytes == rows.bytes


def test_bytes_are_those_of_the_tensors_kept() -> None:
    numbers = {name: made()[0].bytes // 8 for name, made in KINDS.items()}
    fisher = WIDTH * 2 + 2 + 1 + HEIGHT * HEIGHT + HEIGHT + HEIGHT * 2 + HEIGHT
    one, three = M * (HEIGHT + WIDTH), 3 * M * (HEIGHT + WIDTH)
    assert numbers["factored"] == one
    assert numbers["dense"] == M * HEIGHT * WIDTH
    assert numbers["combined"] == one + 3 * M
    assert numbers["image under its metric"] == one + fisher
    assert numbers["stacked"] == one + M * HEIGHT * WIDTH + three + 3 * M + one + fisher


@pytest.mark.parametrize(("positions", "kind"), [(1, FactoredRows), (2, FactoredRows), (3, DenseRows)])
def test_gradients_are_kept_as_factors_where_those_are_fewer_numbers(positions: int, kind: type[Rows]) -> None:
    """One position is 10 numbers, a gradient 24."""
    rows, matrices = factored(positions)
    assert isinstance(rows, FactoredRows)
    kept = rows_from_factors(Factors(rows.inputs, rows.outputs))
    assert isinstance(kept, kind)
    close(kept.dense(torch.arange(M)), matrices)


def test_positions_at_which_a_factor_is_zero_are_not_kept() -> None:
    """Of five positions no example has more than three that count; one example has none."""
    a, d = draw(M, 5, 30, seed=30), draw(M, 5, 20, seed=31)
    d[:, :2] = 0
    a[1, 3], d[2] = 0, 0
    d[3, 0], d[3, 4] = 1.0, 0  # as many, at other places
    kept = rows_from_factors(Factors(a, d))
    assert isinstance(kept, FactoredRows)
    assert kept.positions == 3
    close(kept.dense(torch.arange(M)), d.mT @ a)
    assert rows_from_factors(Factors(a, 0 * d)).bytes == M * 50 * 8
