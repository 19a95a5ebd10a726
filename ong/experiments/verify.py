"""Published records run again, from their own settings, and compared with what they say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.table import Table
from rich.text import Text

from ong.errors import UserError
from ong.experiments.jobs import Job, Outcome
from ong.experiments.kinds import kind_of
from ong.experiments.recipes import checked, override
from ong.experiments.sweep import sweep
from ong.files import is_there, read_text
from ong.report.migrations import migrated
from ong.report.records import read_record

__all__ = ["TOLERANCE", "Verdict", "difference", "other_machine", "table_of", "verify"]

TOLERANCE = 0.01
"""How far ACC may lie from the record's on another kind of machine."""

_KIND = ("processor", "cpu_capability", "threads", "device")
_PACKAGES = ("torch", "torchvision", "avalanche-lib", "numpy")


@dataclass(frozen=True)
class Verdict:
    """What came of one record.

    Attributes:
        path: the record.
        benchmark: the benchmark's name.
        strategy: the strategy's name.
        seed: the run's seed.
        other: what differs between the record's machine and this one, in words; empty where they are of one kind.
        same: everything but seconds came out the same to the bit.
        difference: see :func:`difference`; NaN where the run stopped.
        failure: why the run stopped.
        passes: the same to the bit on the same kind of machine, a difference within the tolerance on another.
    """

    path: Path
    benchmark: str
    strategy: str
    seed: int
    other: str
    same: bool
    difference: float
    failure: str | None
    passes: bool


def verify(
    paths: Sequence[Path], *, tolerance: float = TOLERANCE, data_root: Path | None = None, workers: int = 1
) -> Iterator[Verdict]:
    """Run records again in a temporary folder and yield what came of each.

    Args:
        paths: ``record.json`` files, with their ``environment.json`` beside them.
        tolerance: largest :func:`difference` on another kind of machine.
        data_root: where data sets that are not in the package lie.
        workers: processes.

    Raises:
        UserError: a file that is no record, or one whose settings this version does not understand.
    """
    if not 0 <= tolerance < math.inf:
        raise UserError(f"--tolerance {tolerance}: give a number of at least 0, such as 0.01")
    with TemporaryDirectory(prefix="ong-verify-") as folder:
        jobs = [_job(path, Path(folder) / str(number), data_root) for number, path in enumerate(paths)]
        for path, outcome in zip(paths, sweep(jobs, workers), strict=True):
            yield _verdict(path, outcome, tolerance)


def _job(path: Path, out: Path, data_root: Path | None) -> Job:
    """Return the job of a record, on the device that it was made on."""
    read_record(path)  # says what is wrong with a file that is none
    record = _record(path)
    kind = kind_of(record["benchmark"].get("kind", "continual"))
    if "accuracy_matrix" in record and not isinstance(record.get("metrics", {}).get("ACC"), int | float):
        raise UserError(f"'{path}' has no ACC to be compared")
    try:
        benchmark = checked(kind.benchmark, record["benchmark"], "its benchmark")
        strategy = checked(kind.strategy, record["strategy"], "its strategy")
    except UserError as error:
        raise UserError(f"'{path}' was written by a version of ong with other recipes: {error}") from None
    device = _environment_of(path).get("device")
    if device is not None and hasattr(getattr(benchmark, "training", None), "device"):
        benchmark = override(benchmark, {"training.device": device})
    if reason := kind.why_not(benchmark, strategy):
        raise UserError(f"'{path}' cannot be run here: {reason}")
    return Job(benchmark, strategy, record["seed"], out, data_root)


def _record(path: Path) -> dict[str, Any]:
    return migrated(_read(path), path)


def _environment_of(path: Path) -> dict[str, Any]:
    beside = path.with_name("environment.json")
    return _read(beside) if is_there(beside) else {}


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(read_text(path, "record"))
    return found


def _verdict(path: Path, outcome: Outcome, tolerance: float) -> Verdict:
    job = outcome.job
    names = job.benchmark.name, job.strategy.name, job.seed
    if outcome.record is None:
        return Verdict(path, *names, "", False, math.nan, outcome.failure, False)
    published, made = _record(path), job.folder.path / "record.json"
    again = _record(made)
    other = other_machine(_environment_of(path), _environment_of(made))
    same = _measured(published) == _measured(again)
    far = difference(published, again)
    return Verdict(path, *names, other, same, far, None, far <= tolerance if other else same)


def other_machine(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say what of two environments can change the last digits of a run: processor, vector units, threads, versions.

    ``cpu_capability`` is the widest vector units that torch uses, which ``ATEN_CPU_CAPABILITY`` makes narrower.
    """
    pairs = {name: (there.get(name), here.get(name)) for name in _KIND}
    for name in _PACKAGES:
        pairs[name] = (there.get("packages", {}).get(name), here.get("packages", {}).get(name))
    return ", ".join(f"{name} {a or 'not told'} → {b or 'not told'}" for name, (a, b) in pairs.items() if a != b)


def difference(published: Mapping[str, Any], again: Mapping[str, Any]) -> float:
    """Return how far two records lie apart.

    For a stream of tasks this is |ΔACC|. For other kinds it is the largest relative difference of a metric,
    |a − b|/max(|a|, |b|).
    """
    before, after = published["metrics"], again["metrics"]
    if "accuracy_matrix" in published:
        return abs(float(before["ACC"]) - float(after["ACC"]))
    return max((_relative(value, after.get(name)) for name, value in before.items()), default=0.0)


def _relative(a: float | None, b: float | None) -> float:
    if a is None or b is None:
        return 0.0 if a == b else math.inf
    return abs(a - b) / max(abs(a), abs(b)) if a != b else 0.0


def _measured(value: Any) -> Any:
    """Leave out what describes a run and what it took: words and seconds."""
    if isinstance(value, dict):
        told = ("timing", "summary", "source", "needs")
        return {k: _measured(v) for k, v in value.items() if k not in told and "seconds" not in k}
    return [_measured(part) for part in value] if isinstance(value, list) else value


def table_of(verdicts: Iterable[Verdict]) -> Table:
    """Return a line on each verdict, for a terminal."""
    table = Table(box=None, pad_edge=False)
    for heading in ("benchmark", "strategy", "seed", "same to the bit", "difference", "", ""):
        table.add_column(heading, overflow="fold")
    for v in verdicts:
        told = v.failure or (f"another kind of machine: {v.other}" if v.other else "")
        marks = "yes" if v.same else "no", f"{v.difference:.4g}", "ok" if v.passes else "FAILS"
        table.add_row(v.benchmark, v.strategy, str(v.seed), *marks, Text(told))
    return table
