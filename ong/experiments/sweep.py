"""Many runs: which are to be done, one after the other or in parallel workers."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import Manager
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ong.errors import NotFiniteError, UserError, WorkStoppedError
from ong.experiments.kinds import Run, kind_of
from ong.experiments.progress import Bars, Progress, Relay, Silent
from ong.experiments.schema import BenchmarkRecipe, StrategyRecipe
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder, deciding, fingerprint

__all__ = ["Job", "Outcome", "finished", "perform", "perform_in_worker", "sweep"]


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
        return kind_of(self.benchmark.kind).make_run(self.benchmark, self.strategy, self.seed, self.data_root)


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        job: the job.
        record: the finished record, None after a failure.
        failure: why it stopped, in one line.
        skipped: it had been finished before.
        wrong: it stopped for wrong input.
    """

    job: Job
    record: dict[str, Any] | None
    failure: str | None = None
    skipped: bool = False
    wrong: bool = False


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
    found, wanted = deciding(record), deciding(settings)
    differing = [key for key in wanted if found.get(key) != wanted[key]]
    if differing:
        raise UserError(
            f"'{job.folder.path}' holds a finished run with another {' and '.join(differing)} recipe; "
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


def perform_in_worker(job: Job, parent: int, progress: Progress | None = None) -> Outcome:
    """Do one job in a worker process, which ends when its parent is gone."""
    _end_with(parent)
    return perform(job, progress)


@cache
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:  # not in the parent itself, nor on another machine
        threading.Thread(target=watch, daemon=True).start()


def _perform(job: Job, run: Run, progress: Progress) -> Outcome:
    record = finished(job, run.settings)
    if record is not None:
        return Outcome(job, record, skipped=True)
    if job.force:
        job.folder.clear()
    wrong = False
    try:
        return Outcome(job, run.run(job.folder, progress))
    except (StoppedError, NotFiniteError, UserError) as error:
        message, place = f"{job.label}: {error}", error.place if isinstance(error, StoppedError) else run.place
        wrong = isinstance(error, UserError)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        message = f"{job.label}: {type(error).__name__}: {error}"
        place = run.place
    job.folder.save_failure({"strategy": job.strategy.name, "seed": job.seed, **place, "message": message})
    return Outcome(job, None, failure=message, wrong=wrong)


def sweep(jobs: Sequence[Job], workers: int = 1, *, show: bool = True) -> list[Outcome]:
    """Do jobs, all checked before the first one starts.

    Args:
        jobs: the runs.
        workers: processes; each uses one thread, as torch's threads fight when runs share cores.
        show: progress bars on the error stream, when it is a terminal.

    Raises:
        UserError: a job that cannot run; nothing has been started then.
    """
    outcomes: dict[int, Outcome] = {}
    checked: dict[str, Checked] = {}
    for number, job in enumerate(jobs):
        record = finished(job, job.settings)
        if record is None:
            record, checked[job.recipes] = check(job, checked.get(job.recipes))
        if record is not None:
            outcomes[number] = Outcome(job, record, skipped=True)
    waiting = [(number, job) for number, job in enumerate(jobs) if number not in outcomes]
    if workers == 1 or len(waiting) == 1:
        for number, job in waiting:
            bars = Bars(job.label) if show else None
            try:
                outcomes[number] = perform(job, bars)
            finally:
                if bars is not None:
                    bars.close()
    elif waiting:
        total = sum(checked[job.recipes].units for _, job in waiting)
        done = _in_parallel([job for _, job in waiting], workers, total, show=show)
        outcomes |= {number: replace(outcome, job=job) for (number, job), outcome in zip(waiting, done, strict=True)}
    return [outcomes[number] for number in range(len(jobs))]


def _in_parallel(jobs: Sequence[Job], workers: int, total: int, *, show: bool) -> Iterable[Outcome]:
    with Manager() as manager:
        queue = manager.Queue()
        hidden = not (show and sys.stderr.isatty())
        with tqdm(total=total, desc=f"{len(jobs)} runs", unit="part", disable=hidden, dynamic_ncols=True) as bar:

            def listen() -> None:
                while (count := queue.get()) is not None:
                    bar.update(count)

            listener = threading.Thread(target=listen, daemon=True)
            listener.start()
            try:
                with watched():
                    outcomes: list[Outcome] = Parallel(n_jobs=workers, backend="loky")(
                        delayed(perform_in_worker)(_from_anywhere(job), os.getpid(), Relay(queue)) for job in jobs
                    )
            finally:
                queue.put(None)
                listener.join()
    return outcomes


@contextmanager
def watched() -> Iterator[None]:
    """Name what happens to workers that the system kills, and be silent about those that joblib replaces.

    Raises:
        WorkStoppedError: one was.
    """
    try:
        with warnings.catch_warnings():
            # joblib replaces a worker whose memory grew by a stream's size, and wonders why it had to
            warnings.filterwarnings("ignore", "A worker stopped while some jobs")
            yield
    except TerminatedWorkerError:
        raise WorkStoppedError(
            "a worker process was killed, as a system that is short of memory does (--jobs 1 takes the least); "
            "the same command resumes where it was"
        ) from None


def _from_anywhere(job: Job) -> Job:
    """Make a job's paths absolute: a worker that joblib keeps from an earlier call stands in that call's folder."""
    return replace(job, out=job.out.absolute(), data_root=job.data_root and job.data_root.absolute())


def default_workers(jobs: int) -> int:
    """Return how many workers serve so many jobs: no more than there are cores."""
    return max(
        1,
        min(jobs, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1),
    )
