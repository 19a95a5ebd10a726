"""What is done of many runs, what is to do, and what that will take."""

from __future__ import annotations

import gc
import json
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from ong.errors import UserError
from ong.experiments.jobs import Job, finished, one_thread
from ong.experiments.schema import ContinualBenchmark, ContinualStrategy
from ong.experiments.store import deciding
from ong.files import read_text
from ong.methods.room import readable
from ong.report.migrations import migrated
from ong.waiting import waiting

__all__ = ["Costs", "duration", "summary_of"]


@dataclass(frozen=True)
class Costs:
    """What a run takes.

    Attributes:
        seconds: from its start to its end.
        kept: the most bytes it keeps after any task.
    """

    seconds: float
    kept: int


def summary_of(jobs: Sequence[Job], workers: int = 1) -> Iterator[str]:
    """Yield a line on each benchmark and strategy: its seeds, how many of them are done, and what others will take.

    Seconds and bytes kept are those of finished runs of the same recipes; where there are none, a rehearsal measures
    them (:class:`ong.experiments.rehearsal.Rehearsal`), which takes some seconds a strategy.

    Args:
        jobs: the runs.
        workers: processes that are to do them.
    """
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.benchmark.name, job.strategy.name), []).append(job)
    states = {names: Counter(map(_state, own)) for names, own in groups.items()}
    to_do = {names: len(own) - states[names]["done"] - states[names][_OTHER] for names, own in groups.items()}
    costs = {names: _finished_costs(own[0]) for names, own in groups.items() if to_do[names]}
    unknown = [names for names, found in costs.items() if found is None]
    failed: dict[tuple[str, str], str] = {}
    for names in waiting(unknown, "measuring what runs take"):
        try:
            costs[names] = _rehearsed(groups[names][0])
        except UserError as error:
            failed[names] = str(error)
    for (benchmark, strategy), own in groups.items():
        counts = ", ".join(f"{count} {state}" for state, count in states[benchmark, strategy].items())
        found = costs.get((benchmark, strategy))
        told = f", about {duration(found.seconds)} each" if found else ""
        told += f"; keeps {readable(found.kept)}" if found and found.kept else ""
        told += f"; not measured: {failed[benchmark, strategy]}" if (benchmark, strategy) in failed else ""
        yield f"{benchmark}  {strategy}  seeds {', '.join(str(job.seed) for job in own)}: {counts}{told}"
    yield f"{len(jobs)} runs, {sum(counts['done'] for counts in states.values())} done"
    left = sum(to_do[names] * found.seconds for names, found in costs.items() if found)
    rest = sum(to_do[names] for names, found in costs.items() if not found)
    if left:
        told = f"about {duration(left)} of computing left, {duration(left / workers)} with {workers} jobs"
        yield told + (f"; {rest} runs of which nothing is known come to that" if rest else "")
    elif rest:
        yield "how long they take is known once a run of each is finished here: start with one seed"
    peak = _peak() if len(unknown) > len(failed) else None
    if peak:
        yield f"a process of these takes up to {readable(peak)}"


_OTHER = "done with another recipe"


def _state(job: Job) -> str:
    path = job.folder.path
    try:
        if finished(job, job.settings) is not None:
            return "done"
    except UserError:
        return _OTHER
    return (
        "unfinished" if (path / "checkpoint.pt").exists() else "failed" if (path / "failure.json").exists() else "to do"
    )


def _finished_costs(job: Job) -> Costs | None:
    """Return the mean seconds of a job's finished runs of any seed, and the most bytes any kept; None without any."""
    seconds, kept = list[float](), list[int]()
    for path in job.folder.path.parent.glob("seed-*/record.json"):
        try:
            record = migrated(json.loads(read_text(path, "record")), path)
            if deciding(record | {"seed": job.seed}).items() >= deciding(job.settings).items():
                seconds.append(float(record["timing"]["total_seconds"]))
                kept += [n for n in record["diagnostics"].get("memory_bytes", []) if isinstance(n, int)]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            continue  # the run itself will say what is wrong with it
    return Costs(mean(seconds), max(kept, default=0)) if seconds else None


def _rehearsed(job: Job) -> Costs | None:
    """Measure what a job's runs take; None for kinds that have no rehearsal.

    Raises:
        UserError: whatever is wrong with it.
    """
    if not isinstance(job.benchmark, ContinualBenchmark) or not isinstance(job.strategy, ContinualStrategy):
        return None
    from ong.experiments.rehearsal import Rehearsal  # and Avalanche, which takes seconds

    gc.collect()  # of the one before, whose stream lies in cycles
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the run itself will say
        return Rehearsal(job.benchmark, job.strategy, job.seed, job.data_root).costs()


def _peak() -> int | None:
    """Return the most bytes of memory that this process has had; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them: ``40 s``, ``3.5 min``, ``2.1 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
