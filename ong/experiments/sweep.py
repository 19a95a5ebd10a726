"""Many runs: which are to be done, one after the other or in parallel workers."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from ong.console import on_terminal
from ong.errors import NotFiniteError, UserError, WorkStoppedError
from ong.experiments.cluster import Cluster
from ong.experiments.kinds import Run, kind_of
from ong.experiments.limits import within_memory
from ong.experiments.loggers import make_loggers
from ong.experiments.loggers.logged import Logged
from ong.experiments.progress import Bars, Overview, Progress, Silent
from ong.experiments.schema import BenchmarkRecipe, StrategyRecipe
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder, deciding, fingerprint
from ong.experiments.workers import LostWorkerError, Workers
from ong.report.runs import flatten

__all__ = [
    "Job",
    "Outcome",
    "attempt",
    "default_workers",
    "finished",
    "from_anywhere",
    "outcome_of",
    "perform",
    "sweep",
]


@dataclass(frozen=True)
class Job:
    """One run to be done.

    Attributes:
        benchmark: what is learned, overrides applied.
        strategy: how, overrides applied.
        seed: the run's seed.
        out: the folder of all runs.
        data_root: where data sets that are not in the package lie.
        force: repeat a finished run and drop an unfinished one.
    """

    benchmark: BenchmarkRecipe
    strategy: StrategyRecipe
    seed: int
    out: Path
    data_root: Path | None = None
    force: bool = False

    @property
    def folder(self) -> RunFolder:
        """Where the run lies."""
        return RunFolder(self.out, self.benchmark.name, self.strategy.name, self.seed)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the run, as its record keeps it."""
        return {"benchmark": self.benchmark.settings(), "strategy": self.strategy.settings(), "seed": self.seed}

    @property
    def recipes(self) -> str:
        """A digest of all that decides the run but the seed."""
        return fingerprint(self.settings | {"seed": None})

    @property
    def label(self) -> str:
        """The run's name in messages."""
        return f"{self.benchmark.name} / {self.strategy.name} / seed {self.seed}"

    def run(self) -> Run:
        """Build what does it.

        Raises:
            UserError: whatever is wrong with it.
        """
        try:
            with within_memory(self.label):
                return kind_of(self.benchmark.kind).make_run(self.benchmark, self.strategy, self.seed, self.data_root)
        except UserError:
            raise
        except Exception as error:  # of classes of others, which take what they are given
            last = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise UserError(
                f"{self.label}: it cannot be built from its recipes ({told}; at {last.filename}:{last.lineno})"
            ) from error


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        record: the finished record, None after a failure.
        failure: why it stopped, in one line.
        skipped: it had been finished before.
        wrong: it stopped for wrong input.
        lost: it has not stopped; the process that did it died, or the disk was full.
        place: where it stopped.
    """

    job: Job
    record: dict[str, Any] | None
    failure: str | None = None
    skipped: bool = False
    wrong: bool = False
    lost: bool = False
    place: Mapping[str, Any] = field(default_factory=dict)


def finished(job: Job, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a finished run of the same settings.

    Raises:
        UserError: the record there is of other settings.
    """
    if job.force:
        return None
    record = job.folder.record()
    if record is None:
        return None
    wanted = deciding(settings)
    found = {key: deciding(record).get(key) for key in wanted}
    if found != wanted:
        there, here = flatten(found), flatten(wanted)
        differing = [key for key in here | there if there.get(key) != here.get(key)]
        told = [f"{key} is {there.get(key)} there, {here.get(key)} here" for key in differing[:3]]
        told += [f"{len(differing) - 3} more"] if len(differing) > 3 else []
        raise UserError(
            f"'{job.folder.path}' holds a finished run of another recipe ({'; '.join(told)}); "
            "replace it with --force or use another --out"
        )
    return record


@dataclass(frozen=True)
class Checked:
    """What building a run told.

    Attributes:
        settings: what decides it; of its seeds only the seed differs.
        units: the number of tasks or epochs it consists of.
    """

    settings: dict[str, Any]
    units: int


def check(job: Job, known: Checked | None = None) -> tuple[dict[str, Any] | None, Checked]:
    """Build a job without running it, so that bad input shows early.

    Args:
        job: the run.
        known: what building the same strategy with another seed told; it is not built again then.

    Returns:
        Its record where it is finished, and what building it told.

    Raises:
        UserError: whatever is wrong with it.
    """
    if known is None:
        make_loggers(job.benchmark.loggers)
        run = job.run()
        known = Checked(run.settings, run.units)
        del run
        gc.collect()  # its stream lies in cycles
    settings = known.settings | {"seed": job.seed}
    job.folder.prepare()
    record = finished(job, settings)
    if record is None and not job.force:
        job.folder.checkpoint(settings)
    return record, known


def perform(job: Job, progress: Progress | None = None) -> Outcome:
    """Do one job in this process, on one thread; a run that stops becomes a failure, not an exception."""
    progress = progress if progress is not None else Silent()
    gc.collect()  # a run before this one, whose stream lies in cycles
    run = job.run()
    job.folder.prepare()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1), job.folder.locked():  # numpy's and scipy's threads, which torch does not rule
            return _perform(job, run, progress)
    except UserError as error:
        return Outcome(job, None, failure=f"{job.label}: {error}", wrong=True)
    finally:
        torch.set_num_threads(threads)


def _perform(job: Job, run: Run, progress: Progress) -> Outcome:
    record = finished(job, run.settings)
    if record is not None:
        job.folder.clear()
        return Outcome(job, record, skipped=True)
    if job.force:
        job.folder.clear()
    wrong = lost = False
    try:
        loggers = make_loggers(job.benchmark.loggers)
        with Logged(loggers, progress, run.settings, job.folder, job.out) as listener:
            record = run.run(job.folder, listener)
            listener.finish(record["metrics"])
        return Outcome(job, record)
    except (StoppedError, NotFiniteError, UserError, WorkStoppedError) as error:
        message, place = f"{job.label}: {error}", error.place if isinstance(error, StoppedError) else run.place
        wrong, lost = isinstance(error, UserError), isinstance(error, WorkStoppedError)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        message = f"{job.label}: {type(error).__name__}: {error}"
        place = run.place
    job.folder.save_failure({"strategy": job.strategy.name, "seed": job.seed, **place, "message": message})
    return Outcome(job, None, failure=message, wrong=wrong, lost=lost, place=place)


def attempt(job: Job, progress: Progress | None = None) -> Outcome:
    """Do one job in a worker; whatever is wrong with it, such as data that are not on that machine, is its failure."""
    try:
        return perform(job, progress)
    except UserError as error:
        return Outcome(job, None, failure=f"{job.label}: {error}", wrong=True)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return Outcome(job, None, failure=f"{job.label}: {type(error).__name__}: {error}")


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
        parts = sum(checked[job.recipes].units for _, job in waiting)
        with Workers(workers) if cluster is None else Cluster(cluster) as pool:
            outcomes |= _side_by_side(waiting, pool, Overview(len(waiting), parts, show=show))
    return [outcomes[number] for number in range(len(jobs))]


def _one_by_one(waiting: Sequence[tuple[int, Job]], *, show: bool) -> dict[int, Outcome]:
    outcomes = {}
    lines = Overview(len(waiting), 0, show=show and len(waiting) > 1 and not on_terminal())
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
    asked = {pool.submit(from_anywhere(job), partial(shown.tell, job.label)): (number, job) for number, job in waiting}
    try:
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
