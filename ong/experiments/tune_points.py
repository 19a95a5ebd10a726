"""Which point a search tries next: a function of what it knows, so that one that was killed goes on as if it had not.

A search goes wave by wave. The first wave is the recipe's own point and three that are spread over the ranges; a later
one has as many trials as are asked for at once. A trial knows the waves before its own, whatever ran beside it and
whichever ended first.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from random import Random
from statistics import median
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import TPESampler
from optuna.trial import TrialState, create_trial

from ong.experiments.ranges import at_share, holds, rounded, widened
from ong.report.studies import Better, Trial, best_of, in_memory

__all__ = ["STARTUP", "medians", "next_point", "space_at", "wave_of"]

STARTUP = 4
"""Trials of the first wave."""


def wave_of(number: int, at_once: int) -> range:
    """Return the numbers of a trial's wave."""
    if number < STARTUP:
        return range(STARTUP)
    first = number - (number - STARTUP) % at_once
    return range(first, first + at_once)


def space_at(
    number: int, given: Mapping[str, BaseDistribution], trials: Sequence[Trial], at_once: int, better: Better
) -> dict[str, BaseDistribution]:
    """Return where a trial is looked for.

    From the sixth trial on, before each wave a logarithmic range is widened by a third of its length where the best so
    far lies at an end of it.

    Args:
        number: the trial's.
        given: where the recipe says to look.
        trials: the finished ones, by number.
        at_once: trials of a wave.
        better: which scores are better.
    """
    space = dict(given)
    for first in sorted({wave_of(n, at_once).start for n in range(number + 1)}):
        best = best_of(trials[:first], better)
        if first > STARTUP and best is not None:
            space = widened(space, best.values)
    return space


def next_point(
    number: int,
    space: Mapping[str, BaseDistribution],
    known: Sequence[Trial],
    beside: Sequence[Mapping[str, Any]],
    better: Better,
) -> dict[str, Any]:
    """Return the point that a trial tries.

    The trials 1 to 3 lie in the middle of each range's thirds, every third once (a Latin square); one that would repeat
    the recipe's own point lies between the middle and the upper end. Later ones are of Optuna's tree-structured Parzen
    estimator, seeded with their number.

    Args:
        number: the trial's, from 1 on.
        space: where to look.
        known: the trials of earlier waves.
        beside: the points of its own wave that have been chosen before it.
        better: which scores are better.
    """
    if number < STARTUP:
        orders = Random(0)
        thirds = {key: orders.sample(range(1, STARTUP), STARTUP - 1)[number - 1] for key in space}

        def within_thirds(share: float) -> dict[str, Any]:
            shares = {key: (third - 1 + share) / (STARTUP - 1) for key, third in thirds.items()}
            return _tidied(space, {key: at_share(space[key], shares[key]) for key in space})

        point = within_thirds(0.5)
        return within_thirds(0.75) if point in beside else point
    sign = math.inf if better == "lower" else -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some of this is experimental
        study = in_memory(
            better, TPESampler(seed=number, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)
        )
        for trial in known:
            if _lies_in(space, trial.values):
                study.add_trial(
                    create_trial(
                        state=TrialState.PRUNED if trial.pruned else TrialState.COMPLETE,
                        value=None if trial.pruned else trial.score if trial.done else sign,
                        params=trial.values,
                        distributions=dict(space),
                        intermediate_values=dict(enumerate(trial.course, 1)),
                    )
                )
        for values in beside:
            if _lies_in(space, values):
                running = create_trial(state=TrialState.RUNNING, params=dict(values), distributions=dict(space))
                study.add_trial(running)
        return _tidied(space, study.ask(dict(space)).params)


def medians(known: Sequence[Trial]) -> tuple[float, ...]:
    """Return, for each task, the median figure of merit that finished trials had after it."""
    courses = [trial.course for trial in known if trial.course]
    longest = max(map(len, courses), default=0)
    return tuple(median(course[task] for course in courses if len(course) > task) for task in range(longest))


def _lies_in(space: Mapping[str, BaseDistribution], values: Mapping[str, Any]) -> bool:
    return all(holds(among, values[key]) for key, among in space.items())


def _tidied(space: Mapping[str, BaseDistribution], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a point with three digits, none of which leads out of its range."""
    return {key: _within(among, rounded(values[key])) for key, among in space.items()}


def _within(among: BaseDistribution, value: Any) -> Any:
    if isinstance(among, CategoricalDistribution):
        return value
    assert isinstance(among, FloatDistribution | IntDistribution)
    return min(max(value, among.low), among.high)
