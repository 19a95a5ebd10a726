"""From a folder of records to the runs of each benchmark.

A single record cannot know two of its metrics: ``intransigence`` compares with training each task alone and
``recovered`` with naive and joint training. Here they are filled in from the records of the same seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ong.errors import UserError
from ong.metrics import METRICS, AccuracyMatrix, Metric, all_metrics
from ong.report.records import Failure, HistoryRecord, Record, read_failure, read_record
from ong.report.runs import HistoryRuns, Runs

__all__ = ["group", "read_runs", "with_sibling_metrics"]


def read_runs(directory: Path | str, metrics: Sequence[Metric] = ()) -> list[Runs | HistoryRuns]:
    """Read every ``record.json`` and ``failure.json`` under a directory.

    A failure beside a record is left out: the run was repeated and finished. Runs that have neither, as interrupted
    ones and those under way, are named in the notes.

    Args:
        directory: where the records lie.
        metrics: what is computed beside the usual metrics.

    Returns:
        One :class:`Runs` (or :class:`HistoryRuns`) for each benchmark, by name, with the sibling metrics filled in.

    Raises:
        UserError: if the directory is missing or has no records, or as
            :func:`read_record` and :func:`group` say.
    """
    directory = Path(directory)
    if directory.is_file():
        raise UserError(f"{directory} is a file; give a folder that `ong run` wrote, such as runs/")
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give one that `ong run` wrote, such as runs/")
    records = [read_record(path) for path in sorted(directory.rglob("record.json"))]
    failed = [p for p in sorted(directory.rglob("failure.json")) if not p.with_name("record.json").exists()]
    failures = [read_failure(path) for path in failed]
    waiting = [path for path in sorted(directory.rglob("seed-*")) if path.is_dir() and not _ended(path)]
    if not records:
        said = f" ({len(failures)} failed, the first: {failures[0].message})" if failures else ""
        said += f" ({len(waiting)} not finished: the same command goes on with them)" if waiting else ""
        raise UserError(f"{directory}: no record.json under it{said}; make one with `ong run BENCHMARK STRATEGY`")
    return group(records, failures, waiting, metrics)


def group(
    records: Iterable[Record | HistoryRecord],
    failures: Iterable[Failure] = (),
    waiting: Iterable[Path] = (),
    metrics: Sequence[Metric] = (),
) -> list[Runs | HistoryRuns]:
    """Group records and failures by benchmark and fill in the sibling metrics.

    A benchmark of which no run finished has no section; the first one's notes name it.

    Args:
        records: the finished runs.
        failures: those that ended early.
        waiting: folders ``BENCHMARK/STRATEGY/seed-S`` of runs that have not ended.
        metrics: what is computed beside the usual metrics.

    Raises:
        UserError: if a strategy and seed occur twice in a benchmark, or its records differ in the number
            of tasks.
    """
    by_name: dict[str, list[Record | HistoryRecord]] = {}
    for record in records:
        by_name.setdefault(record.benchmark_name, []).append(record)
    failed = list(failures)
    lost: dict[str, list[Failure]] = {}
    for failure in failed:
        if failure.benchmark_name not in by_name:
            lost.setdefault(failure.benchmark_name, []).append(failure)
    open_runs: dict[str, list[str]] = {}
    for folder in map(Path.resolve, waiting):
        seed = folder.name.removeprefix("seed-")
        open_runs.setdefault(folder.parent.parent.name, []).append(f"{folder.parent.name} (seed {seed})")
    remarks = [_lost(name, of_benchmark) for name, of_benchmark in sorted(lost.items())]
    remarks += [_unfinished(open_runs[name], name) for name in sorted(open_runs) if name not in by_name]
    runs: list[Runs | HistoryRuns] = []
    for name, members in sorted(by_name.items()):
        _check_comparable(members)
        members.sort(key=lambda record: (record.strategy_name, record.seed))
        of_benchmark = tuple(failure for failure in failed if failure.benchmark_name == name)
        here = [_unfinished(open_runs[name])] if name in open_runs else []
        said = (*([] if runs else remarks), *here)
        continual = [record for record in members if isinstance(record, Record)]
        others = tuple(record for record in members if isinstance(record, HistoryRecord))
        if others:
            runs.append(HistoryRuns(name, others[0].kind, others, of_benchmark, said))
        else:
            filled = tuple(with_sibling_metrics(continual, metrics))
            runs.append(Runs(name, filled, of_benchmark, said, metrics=tuple(metrics)))
    return runs


def with_sibling_metrics(records: Sequence[Record], metrics: Sequence[Metric] = ()) -> list[Record]:
    """Return the records with every metric, ``intransigence`` and ``recovered`` from those of the same seed.

    The records are of one benchmark; one of another recipe for it is no sibling. All metrics of
    :data:`ong.metrics.METRICS` and those given are computed anew from R, so that a report prints what its formulas say;
    other entries of ``metrics`` are kept.
    """
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        by_seed.setdefault(record.seed, []).append(record)
    chosen = [*METRICS.values(), *metrics]
    filled = []
    for record in records:
        others: Mapping[str, AccuracyMatrix] = {
            other.strategy_name: other.matrix for other in by_seed[record.seed] if other.is_of_same_benchmark(record)
        }
        found = all_metrics(record.matrix, others, chosen)
        kept = {name: value for name, value in record.metrics.items() if name not in found}
        filled.append(record.model_copy(update={"metrics": found | kept}))
    return filled


def _lost(benchmark: str, failures: Sequence[Failure]) -> str:
    first = failures[0]
    what = f"the first ({first.strategy}, seed {first.seed}): {first.message}"
    return f"No run of {benchmark} finished; {len(failures)} failed, {what}."


def _ended(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("record.json", "failure.json"))


def _unfinished(runs: Sequence[str], benchmark: str = "") -> str:
    where = f" of {benchmark}" if benchmark else ""
    return f"Not finished{where}: {', '.join(runs)}; the same command goes on with them."


def _check_comparable(records: Sequence[Record | HistoryRecord]) -> None:
    first: dict[tuple[str, int], Record | HistoryRecord] = {}
    for record in records:
        twin = first.setdefault((record.strategy_name, record.seed), record)
        if twin is not record:
            raise UserError(
                f"{record.path} and {twin.path}: both are {record.benchmark_name}, {record.strategy_name}, "
                f"seed {record.seed}; report them from separate directories"
            )
        other = records[0]
        if record.kind != other.kind:
            raise UserError(
                f"{record.path} is of kind {record.kind}, but {other.path} of the same benchmark of kind {other.kind}; "
                "report them from separate directories"
            )
        if isinstance(record, Record) and isinstance(other, Record) and record.matrix.tasks != other.matrix.tasks:
            raise UserError(
                f"{record.path}: {record.matrix.tasks} tasks, but {other.path} of the same benchmark "
                f"has {other.matrix.tasks}; report them from separate directories"
            )
