"""One process, two, and the workers of a Dask cluster: the same records to the bit, though workers are killed."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from kills import family, leftovers, timeless, wait_until

from ong.errors import UserError
from ong.experiments.cluster import Cluster
from ong.experiments.jobs import Job
from ong.experiments.plan import plan
from ong.experiments.sweep import outcome_of, sweep
from ong.experiments.workers import Workers

QUICK = {"training.epochs": 1, "stream.tasks": 3}
FEW = (["naive", "ogd"], [0, 1])
MANY = (["naive", "ewc", "ogd", "ong-prior"], [0, 1, 2, 3, 4])


@pytest.mark.parametrize("address", ["localhost:8786", "dask://localhost", "dask://", "tcp://localhost:8786"])
def test_addresses_of_another_form_are_told(address: str) -> None:
    with pytest.raises(UserError, match="give a Dask scheduler's address, such as dask://localhost:8786"):
        Cluster(address)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A local cluster of two worker processes of one thread each."""
    import distributed

    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made.scheduler_address.replace("tcp://", "dask://")


Runs = Callable[[Path], list[Job]]


@pytest.fixture(scope="module", params=[FEW, pytest.param(MANY, marks=pytest.mark.nightly)], ids=["2x2", "4x5"])
def runs(request: pytest.FixtureRequest) -> Runs:
    """Strategies × seeds, in a folder."""
    strategies, seeds = request.param
    return lambda out: plan("permuted-digits", strategies, seeds, QUICK, out=out)


def records(planned: Sequence[Job]) -> list[str]:
    return [json.dumps(timeless(job.folder.record())) for job in planned]


@pytest.fixture(scope="module")
def one_by_one(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    planned = runs(tmp_path_factory.mktemp("one"))
    sweep(planned, show=False)
    return records(planned)


@pytest.fixture(params=["two processes", "a Dask cluster"])
def pool(request: pytest.FixtureRequest) -> Iterator[tuple[Workers | Cluster, Callable[[], int]]]:
    """Two workers, and a function that returns the number of a process among them."""
    if request.param == "two processes":
        others = family(os.getpid())
        with Workers(2) as workers:
            yield workers, lambda: next(p.pid for p in family(os.getpid()) if p not in others)
    else:
        with Cluster(request.getfixturevalue("cluster")) as far:
            yield far, lambda: min(far.client.run(os.getpid).values())


@pytest.mark.slow
def test_whoever_does_runs_and_though_a_worker_is_killed_their_records_are_the_same_to_the_bit(
    pool: tuple[Workers | Cluster, Callable[[], int]], runs: Runs, one_by_one: list[str], tmp_path: Path
) -> None:
    workers, some_process = pool
    for name in ("whole", "killed"):
        planned = runs(tmp_path / name)
        for job in planned:
            job.folder.prepare()
        asked = [workers.submit(job) for job in planned]
        if name == "killed":
            wait_until(lambda: any(tmp_path.glob("killed/*/*/*/checkpoint.pt")))  # in the middle of a run
            os.kill(some_process(), signal.SIGKILL)
        outcomes = [outcome_of(future, job) for future, job in zip(asked, planned, strict=True)]
        assert [outcome.failure for outcome in outcomes] == [None] * len(planned)
        assert records(planned) == one_by_one
    assert leftovers(tmp_path) == []


def test_a_scheduler_that_dies_ends_the_sweep_with_the_reason(tmp_path: Path) -> None:
    process, address = scheduler()
    with Cluster(address) as pool:
        (job,) = plan("permuted-digits", ["naive"], [0], QUICK, out=tmp_path)
        job.folder.prepare()
        asked = pool.submit(job)  # there is no worker that could do it
        process.kill()
        outcome = outcome_of(asked, job)
    assert outcome.lost
    assert outcome.failure is not None
    assert "the cluster gave it up" in outcome.failure


def test_workers_of_several_threads_are_refused() -> None:
    import distributed

    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as made,
        pytest.raises(UserError, match=r"runs 2 threads; .*start workers with --nthreads 1"),
    ):
        Cluster(made.scheduler_address.replace("tcp://", "dask://"))


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ong.experiments.cluster._PATIENCE", 1)
    with pytest.raises(UserError, match="dask://localhost:9': no scheduler answers there"):
        Cluster("dask://localhost:9")


def scheduler() -> tuple[psutil.Popen, str]:
    """Start a scheduler without workers, in a process of its own; returns its address too."""
    code = (
        "import asyncio, distributed\n"
        "async def main():\n"
        "    async with distributed.Scheduler(port=0, host='127.0.0.1', dashboard=False) as made:\n"
        "        print(made.address, flush=True)\n"
        "        await made.finished()\n"
        "asyncio.run(main())\n"
    )
    process = psutil.Popen([sys.executable, "-c", code], stdout=-1, stderr=-3, text=True)
    return process, process.stdout.readline().strip().replace("tcp://", "dask://")
