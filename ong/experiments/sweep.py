"""Many runs: which are to be done, one after the other or in parallel workers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, as_completed
from dataclasses import replace
from functools import partial

from ong.console import on_terminal
from ong.errors import UserError
from ong.experiments.cluster import Cluster
from ong.experiments.jobs import Checked, Job, Outcome, check, finished, perform
from ong.experiments.progress import Bars, Overview
from ong.experiments.workers import LostWorkerError, Workers

__all__ = ["default_workers", "from_anywhere", "outcome_of", "sweep"]


def sweep(jobs: Sequence[Job], workers: int = 1, *, cluster: str | None = None, show: bool = True) -> list[Outcome]:
    """Do jobs, all checked before the first one starts.

    Args:
        jobs: the runs.
        workers: processes; each uses one thread, as torch's threads fight when runs share cores.
        cluster: ``dask://HOST:PORT`` of a Dask scheduler, whose workers do the runs in place of processes here.
        show: on the error stream, progress bars where it is a terminal, and a line for each of several runs elsewhere.

    Raises:
        UserError: a job that cannot run; nothing has been started then.
    """
    try:
        return _swept(jobs, workers, cluster, show=show)
    finally:
        for job in jobs:
            job.folder.remove_if_empty()  # of a run that was not begun


def _swept(jobs: Sequence[Job], workers: int, cluster: str | None, *, show: bool) -> list[Outcome]:
    outcomes: dict[int, Outcome] = {}
    checked: dict[str, Checked] = {}
    for number, job in enumerate(jobs):
        try:
            record = finished(job, job.settings)
        except UserError:
            job.run()  # whatever is wrong with the recipes, which are new, is told first
            raise
        if record is None:
            record, checked[job.recipes] = check(job, checked.get(job.recipes))
        if record is not None:
            job.folder.tidy()
            outcomes[number] = Outcome(job, record, skipped=True)
    waiting = [(number, job) for number, job in enumerate(jobs) if number not in outcomes]
    if cluster is None and (workers == 1 or len(waiting) == 1):
        outcomes |= _one_by_one(waiting, show=show)
    elif waiting:
        units = {job.label: checked[job.recipes].units for _, job in waiting}
        with Workers(workers) if cluster is None else Cluster(cluster) as pool:
            outcomes |= _side_by_side(waiting, pool, Overview(units, show=show))
    return [outcomes[number] for number in range(len(jobs))]


def _one_by_one(waiting: Sequence[tuple[int, Job]], *, show: bool) -> dict[int, Outcome]:
    outcomes = {}
    lines = Overview({job.label: 1 for _, job in waiting}, show=show and len(waiting) > 1 and not on_terminal())
    for number, job in waiting:
        bars = Bars(job.label) if show else None
        try:
            outcomes[number] = perform(job, bars)
        finally:
            if bars is not None:
                bars.close()
        lines.finish(job.label, outcomes[number].failure)
    return outcomes


def _side_by_side(waiting: Sequence[tuple[int, Job]], pool: Workers | Cluster, shown: Overview) -> dict[int, Outcome]:
    outcomes = {}
    try:
        asked = {
            pool.submit(from_anywhere(job), partial(shown.tell, job.label)): (number, job) for number, job in waiting
        }
        for future in as_completed(asked):
            number, job = asked[future]
            outcomes[number] = outcome = outcome_of(future, job)
            shown.finish(job.label, outcome.failure)
    finally:
        shown.close()
    return outcomes


def outcome_of(future: Future[Outcome], job: Job) -> Outcome:
    """Return what a worker made of a job; one that died is noted as the run's failure."""
    try:
        return replace(future.result(), job=job)
    except LostWorkerError as error:
        message = f"{job.label}: {error}; the same command resumes the run where it was"
        job.folder.save_failure({"strategy": job.strategy.name, "seed": job.seed, "message": message})
        return Outcome(job, None, failure=message, lost=True)


def from_anywhere(job: Job) -> Job:
    """Make a job's paths absolute: a worker may stand in another folder."""
    return replace(job, out=job.out.absolute(), data_root=job.data_root and job.data_root.absolute())


def default_workers(jobs: int) -> int:
    """Return how many workers serve so many jobs: no more than there are cores."""
    return max(
        1,
        min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
    )
