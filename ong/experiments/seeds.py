"""Seeds that depend on a run's seed and a place in the run."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["derived_seed", "seeded"]


def derived_seed(seed: int, *path: int) -> int:
    """Return a seed for one use of randomness in a run; different paths give unrelated streams."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed every global generator inside, put them back after: Avalanche's shuffles and buffers draw from them."""
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy_state)  # noqa: NPY002
