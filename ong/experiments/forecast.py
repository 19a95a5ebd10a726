"""What is done of many runs, what is to do, and what that will take."""

from __future__ import annotations

import gc
import json
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ong.errors import UserError
from ong.experiments.environment import peak_bytes
from ong.experiments.jobs import Job, OtherRecipeError, built, finished
from ong.experiments.progress import duration
from ong.experiments.schema import ContinualBenchmark, ContinualStrategy
from ong.experiments.store import deciding
from ong.files import read_text
from ong.methods.room import readable
from ong.report.migrations import migrated
from ong.threads import one_thread
from ong.waiting import waiting

__all__ = ["Costs", "summary_of"]


@dataclass(frozen=True)
class Costs:
    """What a run takes.

    Attributes:
        seconds: from its start to its end.
        kept: the most bytes it keeps after any task.
        peak: the most bytes of memory that a process with it had; None where that is not known.
    """

    seconds: float
    kept: int
    peak: int | None = None


def summary_of(jobs: Sequence[Job], workers: int = 1) -> Iterator[str]:
    """Yield a line on each benchmark and strategy: its seeds, how many of them are done, and what others will take.

    Costs are those of finished runs of the same recipes; where there are none, a rehearsal measures them
    (:class:`ong.experiments.rehearsal.Rehearsal`), which takes seconds a strategy.

    Args:
        jobs: the runs.
        workers: processes that are to do them.

    Raises:
        UserError: what is wrong with a folder or a record in it.
    """
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        groups.setdefault((job.benchmark.name, job.strategy.name), []).append(job)
    states = {names: Counter(map(_state, own)) for names, own in groups.items()}
    to_do = {names: len(own) - states[names]["done"] - states[names][_OTHER] for names, own in groups.items()}
    costs = {names: _finished_costs(own[0]) for names, own in groups.items() if to_do[names]}
    failed: dict[tuple[str, str], str] = {}
    for names in waiting([names for names, found in costs.items() if found is None], "measuring what runs take"):
        try:
            costs[names] = _rehearsed(groups[names][0])
        except UserError as error:
            failed[names] = str(error)
    for names, own in groups.items():
        counts = ", ".join(f"{count} {state}" for state, count in states[names].items())
        found = costs.get(names)
        told = f", about {duration(found.seconds)} each" if found else ""
        told += f"; keeps {readable(found.kept)}" if found and found.kept else ""
        told += f"; its rehearsal fails: {failed[names]}" if names in failed else ""
        yield f"{'  '.join(names)}  seeds {', '.join(str(job.seed) for job in own)}: {counts}{told}"
    yield f"{len(jobs)} runs, {sum(counts['done'] for counts in states.values())} done"
    yield from _of_all(costs, to_do, workers)


def _of_all(
    costs: Mapping[tuple[str, str], Costs | None], to_do: Mapping[tuple[str, str], int], workers: int
) -> Iterator[str]:
    known = {names: found for names, found in costs.items() if found is not None}
    runs, rest = sum(to_do[names] for names in known), sum(to_do[names] for names in costs.keys() - known.keys())
    if known:
        left, at_once = sum(to_do[names] * found.seconds for names, found in known.items()), min(workers, runs)
        told = f"about {duration(left)} of computing left"
        told += f", {duration(left / at_once)} with {at_once} jobs" if at_once > 1 else ""
        yield told + (f"; {rest} runs of which nothing is known come to that" if rest else "")
    elif rest:
        yield "nothing is known of how long they take"
    peak = max((found.peak for found in known.values() if found.peak), default=None)
    if peak:
        yield f"a process takes about {readable(peak)} of memory"


_OTHER = "done with another recipe"


def _state(job: Job) -> str:
    path = job.folder.path
    try:
        if finished(job, job.settings) is not None:
            return "done"
    except OtherRecipeError:
        return _OTHER
    return (
        "unfinished" if (path / "checkpoint.pt").exists() else "failed" if (path / "failure.json").exists() else "to do"
    )


def _finished_costs(job: Job) -> Costs | None:
    """Return the mean seconds of a job's finished runs of any seed, and the most bytes of any; None without any."""
    seconds, kept, peaks = list[float](), [0], list[int]()
    for path in job.folder.path.parent.glob("seed-*/record.json"):
        try:
            record = migrated(json.loads(read_text(path, "record")), path)
            if deciding(record | {"seed": job.seed}).items() >= deciding(job.settings).items():
                seconds.append(float(record["timing"]["total_seconds"]))
                kept += [n for n in record["diagnostics"].get("memory_bytes", []) if isinstance(n, int)]
                found = json.loads(read_text(path.with_name("environment.json"), "environment")).get("peak_bytes")
                peaks += [found] if isinstance(found, int) else []
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            continue  # the run itself will say what is wrong with it
    return Costs(mean(seconds), max(kept), max(peaks, default=None)) if seconds else None


def _rehearsed(job: Job) -> Costs | None:
    """Measure what a job's runs take; None for kinds that have no rehearsal.

    Raises:
        UserError: whatever is wrong with it.
    """
    benchmark, strategy = job.benchmark, job.strategy
    if not isinstance(benchmark, ContinualBenchmark) or not isinstance(strategy, ContinualStrategy):
        return None
    from ong.experiments.rehearsal import Rehearsal  # and Avalanche, which takes seconds

    gc.collect()  # of the one before, whose stream lies in cycles
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the run itself will say
        run = built(lambda: Rehearsal(benchmark, strategy, job.seed, job.data_root), job.label)
        return Costs(*run.costs(), peak_bytes())
