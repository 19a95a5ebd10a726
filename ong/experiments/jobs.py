"""One run: what is to be done, what became of it, and doing it in this process."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ong.errors import NotFiniteError, UserError, WorkStoppedError
from ong.experiments.kinds import Run, kind_of
from ong.experiments.limits import within_memory
from ong.experiments.loggers import make_loggers
from ong.experiments.loggers.logged import Logged
from ong.experiments.progress import Progress, Silent
from ong.experiments.schema import BenchmarkRecipe, StrategyRecipe
from ong.experiments.stopped import StoppedError
from ong.experiments.store import RunFolder, deciding, fingerprint
from ong.report.runs import flatten
from ong.threads import one_thread

__all__ = [
    "Checked",
    "Job",
    "OtherRecipeError",
    "Outcome",
    "attempt",
    "built",
    "check",
    "finished",
    "perform",
]

R = TypeVar("R")


class OtherRecipeError(UserError):
    """A run's folder holds a finished run of another recipe."""


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
        kind = kind_of(self.benchmark.kind)
        return built(lambda: kind.make_run(self.benchmark, self.strategy, self.seed, self.data_root), self.label)


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


def built(make: Callable[[], R], label: str) -> R:
    """Return what a function builds of a run's recipes.

    Raises:
        UserError: whatever is wrong with them, or more than the memory of this machine.
    """
    try:
        with within_memory(label):
            return make()
    except UserError:
        raise
    except Exception as error:  # of classes of others, which take what they are given
        last = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(
            f"{label}: it cannot be built from its recipes ({told}; at {last.filename}:{last.lineno})"
        ) from error


def finished(job: Job, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the record of a finished run of the same settings.

    Raises:
        OtherRecipeError: the record there is of other settings.
        UserError: it is no record.
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
        pairs = {key: (there.get(key, "absent"), here.get(key, "absent")) for key in here | there}
        differing = [key for key, (old, new) in pairs.items() if old != new]
        told = ["{} is {} there, {} here".format(key, *pairs[key]) for key in differing[:3]]
        told += [f"{len(differing) - 3} more"] if len(differing) > 3 else []
        raise OtherRecipeError(
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
    try:
        with one_thread(), job.folder.locked():
            return _perform(job, run, progress)
    except UserError as error:
        return Outcome(job, None, failure=f"{job.label}: {error}", wrong=True)


def _perform(job: Job, run: Run, progress: Progress) -> Outcome:
    record = finished(job, run.settings)
    if record is not None:
        job.folder.clear()
        return Outcome(job, record, skipped=True)
    if job.force:
        job.folder.clear(logs=True)
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
