"""A mean over seeds with its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

__all__ = ["CONFIDENCE", "Estimate", "t_interval"]

CONFIDENCE = 0.95
"""Of every interval in a report."""


@dataclass(frozen=True)
class Estimate:
    """A mean, the half-width of its interval (NaN for fewer than two values), and the number of values."""

    mean: float
    half_width: float
    count: int


def t_interval(values: Iterable[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return mean ± t_{(1+confidence)/2, n−1} · s/√n, Student's interval for the mean of n normal values.

    s is the sample standard deviation (n − 1 in the denominator). NaNs are left out and not counted.
    """
    sample = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    n = len(sample)
    if n == 0:
        return Estimate(math.nan, math.nan, 0)
    mean = float(sample.mean())
    if n == 1:
        return Estimate(mean, math.nan, 1)
    return Estimate(mean, _quantile(n - 1, confidence) * float(sample.std(ddof=1)) / math.sqrt(n), n)


@cache
def _quantile(degrees_of_freedom: int, confidence: float) -> float:
    return float(stats.t.ppf((1.0 + confidence) / 2.0, df=degrees_of_freedom))
