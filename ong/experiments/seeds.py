"""Seeds that depend on a run's seed and a place in the run."""

from __future__ import annotations

import numpy as np

__all__ = ["derived_seed"]


def derived_seed(seed: int, *path: int) -> int:
    """Return a seed for one use of randomness in a run; different paths give unrelated streams."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1)[0])
