"""Factors of embeddings, with rows' indices in place of one-hot codes, against the codes written out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from nets import Largest, seeded
from torch import Tensor, nn

from ong.curvature import Factors, Lookups, cover, evaluating, example_gradients, logits_of
from ong.curvature.factors import joined, joined_examples
from ong.curvature.squares import gradient_squares

ROWS = 6


def lookups(examples: int = 5, positions: int = 4, seed: int = 0) -> Lookups:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(examples, positions, 3, generator=generator, dtype=torch.float64)
    return Lookups(a, torch.randint(0, ROWS, (examples, positions), generator=generator), ROWS)


def written_out(found: Lookups) -> Factors:
    codes = torch.nn.functional.one_hot(found.indices, ROWS).double()
    return Factors(found.inputs, codes)


def dense(factors: Factors) -> Tensor:
    return torch.einsum("ntr,ntc->nrc", factors.outputs, factors.inputs)


def test_indices_stand_for_their_codes() -> None:
    found = lookups()
    codes = written_out(found)
    assert torch.equal(found.outputs, codes.outputs)
    exact = {"rtol": 1e-14, "atol": 1e-14}  # a few additions in another order
    torch.testing.assert_close(found.summed(), codes.summed(), **exact)
    torch.testing.assert_close(found.absolute().summed(), codes.absolute().summed(), **exact)
    torch.testing.assert_close(found.lengths(), codes.lengths(), **exact)


def test_squares_are_taken_after_a_row_looked_up_twice_is_summed() -> None:
    found = lookups()
    assert any(len(set(row)) < len(row) for row in found.indices.tolist())
    expected = dense(written_out(found)).square().sum(0)
    torch.testing.assert_close(gradient_squares(found), expected, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(gradient_squares(written_out(found)), expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("kind", [lambda found: found, written_out], ids=["indices", "codes"])
def test_examples_and_positions_are_joined_with_zeros_where_some_lack_them(
    kind: Callable[[Lookups], Factors],
) -> None:
    parts = [kind(lookups(1, positions, seed)) for seed, positions in enumerate((4, 2, 3))]
    found = joined_examples([parts[0], None, *parts[1:]])
    expected = torch.cat([dense(parts[0]), torch.zeros(1, ROWS, 3, dtype=torch.float64), *map(dense, parts[1:])])
    torch.testing.assert_close(dense(found), expected, rtol=1e-14, atol=1e-14)
    assert type(found) is type(parts[0])
    twice = joined([found, found], 1)
    torch.testing.assert_close(dense(twice), 2 * expected, rtol=1e-14, atol=1e-14)
    assert type(twice) is type(parts[0])


def test_an_embedding_costs_what_its_batch_touches() -> None:
    vocabulary, width, examples, length = 30_000, 8, 4, 5
    layers = nn.Embedding(vocabulary, width), nn.Flatten(), nn.Linear(width * length, 3)
    model = seeded(nn.Sequential(*layers), torch.Generator().manual_seed(0))
    x = torch.randint(0, vocabulary, (examples, length), generator=torch.Generator().manual_seed(1))

    def run(batch: Tensor) -> Tensor:
        return logits_of(model, batch)

    blocks = cover(model, run, x)
    with evaluating(model), Largest() as largest:
        (parts,) = example_gradients(blocks, run, x, lambda h, _: [torch.ones_like(h)])
    assert largest.numbers == examples * (width * length + 1)  # the head's inputs, with 1 for its bias
    with evaluating(model):
        whole = torch.autograd.grad(run(x).sum(), model[0].weight)[0]
    torch.testing.assert_close(parts["0"].summed(), whole, rtol=1e-12, atol=1e-14)  # float64 round-off
    with Largest() as largest:
        gradient_squares(parts["0"])
    assert largest.numbers == vocabulary * width  # of the sum, once
