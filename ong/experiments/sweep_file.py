"""Sweep files: all runs of a published folder in one TOML file.

::

    out = ".."                                  # the folder of all runs, seen from this file
    data_root = "../../../shared/data/mnist"    # likewise; may be left out
    cpu_capability = "avx2"                     # torch's vector units, or "default"; may be left out

    [[runs]]
    benchmarks = ["permuted-mnist"]
    strategies = ["naive", "replay", "my-recipe.toml"]
    seeds = 5                                   # 0…4, or a list, or as --seeds: "0-4,7"
    dataset = "mnist"                           # in place of the benchmark's; may be left out
    memory = "1MB,4MB"                          # as --memory; may be left out
    set = { "training.epochs" = 5 }             # as --set
    overrides = [                               # each strategy with each of these, under a name of its own
        { suffix = "-1000", "plugins.0.mem_size" = 1000 },
        { suffix = "-5000", "plugins.0.mem_size" = 5000 },
    ]
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

from pydantic import Field

from ong.errors import UserError
from ong.experiments.arguments import parse_seeds
from ong.experiments.jobs import Job, finished
from ong.experiments.memory import budget_name, read_budgets
from ong.experiments.plan import plan
from ong.experiments.recipes import checked, override, read_toml
from ong.experiments.schema import Strict
from ong.experiments.store import deciding
from ong.files import read_text
from ong.report.migrations import migrated

__all__ = ["RunsTable", "SweepFile", "duration", "load_sweep", "summary_of", "sweep_jobs"]


class Override(Strict, extra="allow"):
    """Settings of some runs, and what is added to the strategies' names for them."""

    suffix: str


class RunsTable(Strict):
    """Benchmarks × strategies × overrides × seeds; without ``strategies``, each benchmark's usual ones."""

    benchmarks: Annotated[list[str], Field(min_length=1)]
    strategies: list[str] = Field(default_factory=list)
    seeds: Annotated[int, Field(ge=1, le=1000)] | Annotated[list[int], Field(min_length=1)] | str = 1
    dataset: str | None = None
    memory: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    overrides: list[Override] = Field(default_factory=list)


class SweepFile(Strict):
    """A sweep file; paths in it, those of recipes too, are seen from where it lies."""

    out: str = "runs"
    data_root: str | None = None
    cpu_capability: Literal["default", "avx2", "avx512"] | None = None
    runs: Annotated[list[RunsTable], Field(min_length=1)]


def load_sweep(path: Path) -> SweepFile:
    """Read a sweep file.

    Raises:
        UserError: it cannot be read, or does not hold what such a file holds.
    """
    return checked(SweepFile, read_toml(path, "sweep file"), f"sweep file '{path}'")


def sweep_jobs(
    path: Path,
    out: Path | None = None,
    data_root: Path | None = None,
    *,
    force: bool = False,
    device: str | None = None,
    loggers: Sequence[str] = (),
    tell: Callable[[str], None] = lambda line: None,
) -> list[Job]:
    """Return the jobs of a sweep file, in its order.

    Args:
        path: the file.
        out: the folder of all runs, in place of the file's.
        data_root: where data sets lie, in place of the file's.
        force: repeat what is finished.
        device: in place of the benchmarks'.
        loggers: as ``--logger``.
        tell: called with a line on each usual strategy that is left out.

    Raises:
        UserError: anything that is wrong with it, or a run that stands in it twice.
    """
    file = load_sweep(path)
    here = path.absolute().parent
    folder = out if out is not None else _inside(here, file.out)
    if data_root is None and file.data_root is not None:
        data_root = _inside(here, file.data_root)

    def seen_from_here(recipe: str) -> str:
        return str(here / recipe) if recipe.endswith(".toml") or "/" in recipe else recipe

    jobs: dict[Path, Job] = {}
    for table in file.runs:
        seeds = table.seeds if isinstance(table.seeds, list) else parse_seeds(str(table.seeds))
        for benchmark in table.benchmarks:
            for given in table.overrides or [Override(suffix="")]:
                for job in plan(
                    seen_from_here(benchmark),
                    [seen_from_here(strategy) for strategy in table.strategies] or None,
                    seeds,
                    table.set | (given.model_extra or {}),
                    table.dataset,
                    data_root,
                    folder,
                    force=force,
                    device=device,
                    memory=read_budgets(table.memory) if table.memory is not None else (),
                    loggers=loggers,
                    tell=tell,
                ):
                    named = replace(
                        job, strategy=override(job.strategy, {"name": f"{job.strategy.name}{given.suffix}"})
                    )
                    if named.folder.path in jobs:
                        raise UserError(
                            f"sweep file '{path}': {named.label} stands in it twice; leave one out, or give overrides "
                            "a suffix each"
                        )
                    jobs[named.folder.path] = named
    return list(jobs.values())


def _inside(here: Path, path: str) -> Path:
    try:
        return (here / Path(path).expanduser()).resolve()
    except RuntimeError as error:  # no HOME
        raise UserError(f"'{path}': {error}; give the path without ~") from None


def summary_of(jobs: Sequence[Job], workers: int = 1) -> Iterator[str]:
    """Yield a line on each benchmark and strategy: its seeds, how many of them are done, and what others will take.

    Nothing is built. Seconds and bytes kept are those of finished runs of the same recipes, where there are any.

    Args:
        jobs: the runs.
        workers: processes that are to do them.
    """
    left, unknown = 0.0, 0
    for benchmark, strategy in dict.fromkeys((job.benchmark.name, job.strategy.name) for job in jobs):
        own = [job for job in jobs if (job.benchmark.name, job.strategy.name) == (benchmark, strategy)]
        counts = Counter(map(_state, own))
        states = ", ".join(f"{count} {state}" for state, count in counts.items())
        to_do = len(own) - counts["done"] - counts[_OTHER]
        seconds, kept = _costs(own[0])
        told = ""
        if to_do and seconds is None:
            unknown += to_do
        elif to_do and seconds is not None:
            left += to_do * seconds
            told = f", about {duration(seconds)} each"
            told += f"; keeps {budget_name(kept)}" if kept else ""
        yield f"{benchmark}  {strategy}  seeds {', '.join(str(job.seed) for job in own)}: {states}{told}"
    yield f"{len(jobs)} runs, {sum(_state(job) == 'done' for job in jobs)} done"
    if left:
        told = f"about {duration(left)} of computing left, {duration(left / workers)} with {workers} jobs"
        yield told + (f"; {unknown} runs of which nothing is known come to that" if unknown else "")
    elif unknown:
        yield "how long they take is known once a run of each is finished here: start with one seed"


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


def _costs(job: Job) -> tuple[float | None, int | None]:
    """Return the mean seconds of a job's finished runs of any seed, and the most bytes any kept; None where unknown."""
    seconds, kept = list[float](), list[int]()
    for path in job.folder.path.parent.glob("seed-*/record.json"):
        try:
            record = migrated(json.loads(read_text(path, "record")), path)
            if deciding(record | {"seed": job.seed}).items() >= deciding(job.settings).items():
                seconds.append(float(record["timing"]["total_seconds"]))
                kept += [n for n in record["diagnostics"].get("memory_bytes", []) if isinstance(n, int)]
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
            continue  # the run itself will say what is wrong with it
    return (mean(seconds) if seconds else None), max(kept, default=None)


def duration(seconds: float) -> str:
    """Write seconds in the unit that suits them: ``40 s``, ``3.5 min``, ``2.1 h``."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
