"""Runs on the workers of a Dask cluster: the same records to the bit, and what is said of clusters that are none."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kills import timeless, wait_until

from ong.errors import UserError
from ong.experiments.cluster import Cluster
from ong.experiments.plan import plan
from ong.experiments.sweep import Job, sweep

QUICK = {"training.epochs": 1, "stream.tasks": 2}


@pytest.mark.parametrize("address", ["localhost:8786", "dask://localhost", "dask://", "tcp://localhost:8786"])
def test_addresses_of_another_form_are_told(address: str) -> None:
    with pytest.raises(UserError, match="give a Dask scheduler's address, such as dask://localhost:8786"):
        Cluster(address)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A local cluster of two worker processes of one thread each."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as made:
        yield made.scheduler_address.replace("tcp://", "dask://")


def jobs(out: Path) -> list[Job]:
    return plan("permuted-digits", ["naive", "ogd"], [0, 1], QUICK, out=out)


def records(planned: list[Job]) -> list[str]:
    return [json.dumps(timeless(job.folder.record())) for job in planned]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    planned = jobs(tmp_path_factory.mktemp("one"))
    sweep(planned, show=False)
    return records(planned)


def test_one_process_two_and_a_cluster_give_the_same_bits(cluster: str, one_by_one: list[str], tmp_path: Path) -> None:
    two, far = jobs(tmp_path / "two"), jobs(tmp_path / "far")
    assert all(outcome.failure is None for outcome in sweep(two, workers=2, show=False))
    assert all(outcome.failure is None for outcome in sweep(far, cluster=cluster, show=False))
    assert records(two) == one_by_one
    assert records(far) == one_by_one


def test_a_worker_of_the_cluster_that_is_killed_costs_nothing(
    cluster: str, one_by_one: list[str], tmp_path: Path
) -> None:
    planned = jobs(tmp_path)
    with Cluster(cluster) as pool:
        asked = [pool.submit(job) for job in planned]
        wait_until(lambda: bool(list(tmp_path.glob("*/*/*/.lock"))))
        (first,) = pool.client.run(os.getpid, workers=[min(pool.client.scheduler_info()["workers"])]).values()
        os.kill(first, signal.SIGKILL)
        assert all(future.result(300).failure is None for future in asked)
    assert records(planned) == one_by_one


def test_workers_of_several_threads_are_refused() -> None:
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as made,
        pytest.raises(UserError, match=r"runs 2 threads; .*start workers with --nthreads 1"),
    ):
        Cluster(made.scheduler_address.replace("tcp://", "dask://"))


def test_a_scheduler_that_does_not_answer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("ong.experiments.cluster._PATIENCE", 1)
    with pytest.raises(UserError, match="dask://localhost:9': no scheduler answers there"):
        Cluster("dask://localhost:9")
