"""Intervals over seeds: the same as scipy's, and right as often as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ong.report.intervals import t_interval

DRAWS = 4000
"""So that a coverage of .95 is met within .014 (four standard errors), and a normal quantile, or n for n − 1, is not."""


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_it_is_scipys_interval_of_the_mean(n: int, confidence: float) -> None:
    values = np.random.default_rng(n).normal(0.9, 0.02, n)
    expected = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    found = t_interval(values.tolist(), confidence)
    assert found.count == n
    assert found.mean - found.half_width == pytest.approx(expected.low, rel=1e-10)
    assert found.mean + found.half_width == pytest.approx(expected.high, rel=1e-10)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("paired", [False, True])
def test_it_holds_the_mean_as_often_as_it_says(n: int, paired: bool) -> None:
    random = np.random.default_rng(7)
    held, too_narrow = 0, 0
    for _ in range(DRAWS):
        values = random.normal(0.9, 0.02, n)  # a strategy's accuracy on n seeds
        if paired:  # beside another's, whose seeds share their luck
            values = values - (values + random.normal(-0.1, 0.01, n))
        found, mean = t_interval(values.tolist()), 0.1 if paired else 0.9
        held += abs(found.mean - mean) <= found.half_width
        too_narrow += abs(found.mean - mean) <= 1.96 * float(np.std(values)) / math.sqrt(n)
    assert held / DRAWS == pytest.approx(0.95, abs=0.014)
    assert too_narrow / DRAWS < 0.95 - 0.014  # or the test would show nothing


def test_values_that_are_missing_are_left_out_and_one_value_has_no_interval() -> None:
    assert t_interval([0.5, math.nan, 0.7]) == t_interval([0.5, 0.7])
    assert t_interval([0.5, math.nan]).count == 1
    assert math.isnan(t_interval([0.5]).half_width)
    assert t_interval([]).count == 0
