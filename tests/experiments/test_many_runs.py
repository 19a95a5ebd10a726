"""Many runs in one process: memory stays flat, and no hook, thread or file of theirs is left."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
from torch.nn.modules import module
from torch.nn.parameter import is_lazy
from torch.optim import optimizer

from ong.experiments import learner
from ong.experiments.jobs import Job, perform
from ong.experiments.plan import plan
from ong.experiments.progress import Silent

QUICK = {"training.epochs": 1, "stream.tasks": 2}
STRATEGIES = ("naive", "ogd", "ong-prior", "ewc", "replay")
HOOKS = [
    (place, name)
    for place in (module, optimizer)
    for name in vars(place)
    if name.startswith("_global_") and name.endswith("_hooks")
]


def left() -> dict[str, int]:
    """What runs could leave in a process."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    tensors = [tensor for tensor in found if not is_lazy(tensor)]  # other tests' models have some, of no size
    return {
        "hooks": sum(len(getattr(place, name)) for place, name in HOOKS),
        "threads": threading.active_count() + psutil.Process().num_threads(),
        "files": psutil.Process().num_fds(),
        "children": len(psutil.Process().children()),
        "tensors": len(tensors),
        "bytes of tensors": sum(tensor.untyped_storage().nbytes() for tensor in tensors),
    }


def done(jobs: Sequence[Job]) -> None:
    for job in jobs:
        assert perform(job).failure is None


@pytest.mark.parametrize("count", [pytest.param(20, id="20"), pytest.param(200, id="200", marks=pytest.mark.nightly)])
def test_they_leave_nothing_and_memory_stays_flat(count: int, tmp_path: Path) -> None:
    assert len(HOOKS) > 5  # or torch keeps them elsewhere
    seeds = range(count // len(STRATEGIES) + 1)
    jobs = [job for seed in seeds for job in plan("permuted-digits", STRATEGIES, [seed], QUICK, out=tmp_path)]
    first, others = jobs[: len(STRATEGIES)], jobs[len(STRATEGIES) :]
    done(first)  # imports, and what libraries keep once and for all
    before, memory = left(), psutil.Process().memory_info().rss
    done(others)
    assert left() == before
    assert psutil.Process().memory_info().rss - memory < 60e6
    assert len(list(tmp_path.rglob("record.json"))) == len(jobs)


def test_what_leak_is_measured_against_does_not_grow_with_the_tasks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Fifty tasks once took naive training fifty times as long in the last as in the first."""
    monkeypatch.setattr(learner, "_MOST", 150)
    (job,) = plan("permuted-digits", ["naive"], [0], {"stream.tasks": 3, "training.epochs": 1}, out=tmp_path)
    run = job.run()
    run.run(job.folder, Silent())
    assert [len(memory) for memory in run.diagnostics._memories.values()] == [150, 150]
