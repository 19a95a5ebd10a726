"""A method comes to the same weights in every training loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from integrations.loops import METHODS, OPTIMIZERS, avalanche, lightning_loop, plain, transformers_loop

from ong.methods import Method

pytest.importorskip("lightning")
pytest.importorskip("transformers")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_four_loops_end_with_the_same_weights(method: str, optimizer: str, tmp_path: Path) -> None:
    make = OPTIMIZERS[optimizer]
    loops = [plain, avalanche, lightning_loop, transformers_loop(tmp_path)]
    methods = [METHODS[method]() for _ in loops]
    ends = [loop(of_loop, make) for loop, of_loop in zip(loops, methods, strict=True)]
    assert [of_loop.tasks for of_loop in methods] == [2, 2, 2, 2]
    for end in ends[1:]:  # the same operations, sums in another order: rounding of float64, through 12 steps
        torch.testing.assert_close(end, ends[0], rtol=0, atol=1e-9)
    assert float((ends[0] - plain(Method(), make)).abs().max()) > 1e-2  # the second task goes another way without it
