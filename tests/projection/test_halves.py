"""Numbers of 11 bits: what rounding costs, and that float16 holds them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ong.projection import DenseRows, FactoredRows, LookupRows, PatchRows, as_halves, from_halves, rounded, rounded_rows
from ong.projection.patches import Convolution


def spread(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Numbers of many sizes, in directions of very different lengths; the first is close below a power of two."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(*shape, generator=generator, dtype=dtype) * torch.rand(shape, generator=generator).pow(8)
    numbers[0] *= (1 - 1e-6) / numbers[0].abs().max()
    lengths = torch.logspace(-25, 20, shape[0], dtype=dtype)
    lengths[0] = 1
    return numbers * lengths.reshape(-1, *[1] * (len(shape) - 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_numbers_keep_eleven_bits_and_float16_holds_them_without_loss(dtype: torch.dtype) -> None:
    given = spread(40, 7, 30, dtype=dtype)
    found = rounded(given)
    largest = given.abs().flatten(1).amax(1)[:, None, None]
    relative = (found - given).abs() / torch.maximum(given.abs(), 2.0**-26 * largest)
    assert float(relative.max()) <= 2.0**-11  # half a unit of the last of 11 bits
    assert float(relative.max()) > 2.0**-12
    halves, exponents = as_halves(found)
    assert (halves.dtype, exponents.dtype) == (torch.float16, torch.int16)
    assert torch.equal(from_halves(halves, exponents, dtype), found)
    assert torch.equal(rounded(found), found)


def test_zeros_and_no_directions_stay_what_they_are() -> None:
    assert torch.equal(rounded(torch.zeros(3, 4)), torch.zeros(3, 4))
    assert rounded(torch.zeros(0, 4)).shape == (0, 4)


def test_rows_of_all_kinds_that_are_collected_are_rounded_in_what_is_kept_of_them() -> None:
    a, d = spread(4, 2, 9), spread(4, 2, 9).flip(0)
    where = Convolution((1, 1), (1, 1), (0, 0), (1, 1))
    kinds = [
        (FactoredRows(a, d), FactoredRows(rounded(a), rounded(d))),
        (DenseRows(a), DenseRows(rounded(a))),
        (
            PatchRows(a[:, None], d[:, None], where, bias=False),
            PatchRows(rounded(a)[:, None], rounded(d)[:, None], where, bias=False),
        ),
        (LookupRows(a, torch.ones(4, 2).long(), 3), LookupRows(rounded(a), torch.ones(4, 2).long(), 3)),
    ]
    for given, expected in kinds:
        found = rounded_rows(given)
        assert type(found) is type(expected)
        assert torch.equal(found.columns(0, 1), expected.columns(0, 1))
