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

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ong.errors import UserError
from ong.experiments.arguments import parse_seeds
from ong.experiments.jobs import Job
from ong.experiments.memory import read_budgets
from ong.experiments.plan import plan
from ong.experiments.recipes import checked, override, read_toml
from ong.experiments.schema import Strict

__all__ = ["RunsTable", "SweepFile", "load_sweep", "sweep_jobs"]


class Override(Strict, extra="allow"):
    """Settings of some runs, as ``set`` has them, and what is added to the strategies' names for them.

    Attributes:
        suffix: what is added.
    """

    suffix: str


class RunsTable(Strict):
    """Benchmarks × strategies × overrides × seeds.

    Attributes:
        benchmarks: names, or paths of recipes.
        strategies: names, or paths of recipes; none are each benchmark's usual ones.
        seeds: how many, from 0 on; a list of them; or as --seeds takes them, such as "0-4,7".
        dataset: in place of the benchmarks'.
        memory: budgets, such as "1MB,4MB", to which strategies are sized.
        set: values of recipes by dotted key, such as "training.epochs".
        overrides: each strategy runs with each of these.
    """

    benchmarks: Annotated[list[str], Field(min_length=1)]
    strategies: Annotated[list[str], Field(min_length=1)] | None = None
    seeds: Annotated[int, Field(ge=1, le=1000)] | Annotated[list[int], Field(min_length=1)] | str = 1
    dataset: str | None = None
    memory: str | None = None
    set: dict[str, Any] = Field(default_factory=dict)
    overrides: list[Override] = Field(default_factory=list)


class SweepFile(Strict):
    """A sweep file; paths in it, those of recipes too, are seen from where it lies.

    Attributes:
        out: the folder of all runs.
        data_root: where data sets lie.
        cpu_capability: torch's vector units, by which records repeat on more machines; this machine's if left out.
        runs: groups of runs.
    """

    out: Annotated[str, Field(min_length=1)] = "runs"
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
        if len(set(seeds)) < len(seeds):
            raise UserError(f"sweep file '{path}': 'seeds' {seeds}: seeds must be different")
        for benchmark in table.benchmarks:
            for given in table.overrides or [Override(suffix="")]:
                for job in plan(
                    seen_from_here(benchmark),
                    [seen_from_here(strategy) for strategy in table.strategies] if table.strategies else None,
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
    except ValueError as error:  # a NUL in it
        raise UserError(f"{path!r}: {error}") from None
