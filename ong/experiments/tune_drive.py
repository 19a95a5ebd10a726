"""Searches driven to their end: one after the other in this process, or side by side in worker processes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import TypeVar

from ong.experiments.jobs import Job, Outcome, attempt
from ong.experiments.sweep import outcome_of
from ong.experiments.workers import Workers

__all__ = ["Searching", "alone", "side_by_side"]

T = TypeVar("T")
Searching = Generator[list[Job], list[Outcome], T]
"""Yields runs to be done together, takes what became of them, and returns what was found."""


def alone(searching: Searching[T]) -> T:
    """Do a search's runs in this process, one by one."""
    try:
        jobs = next(searching)
        while True:
            jobs = searching.send([attempt(job) for job in jobs])
    except StopIteration as end:
        found: T = end.value
        return found


def side_by_side(searching: Sequence[Searching[T]], pool: Workers) -> list[T]:
    """Do the runs of several searches in worker processes; each goes on as soon as its own are over."""
    found: dict[int, T] = {}
    running: dict[int, list[tuple[Job, Future[Outcome]]]] = {}

    def advance(place: int, outcomes: list[Outcome] | None) -> None:
        try:
            jobs = next(searching[place]) if outcomes is None else searching[place].send(outcomes)
            running[place] = [(job, pool.submit(job)) for job in jobs]
        except StopIteration as end:
            running.pop(place, None)
            found[place] = end.value

    for place in range(len(searching)):
        advance(place, None)
    while running:
        open_ = [future for asked in running.values() for _, future in asked if not future.done()]
        if open_:
            wait(open_, return_when=FIRST_COMPLETED)
        for place, asked in list(running.items()):
            if all(future.done() for _, future in asked):
                advance(place, [outcome_of(future, job) for job, future in asked])
    return [found[place] for place in range(len(searching))]
