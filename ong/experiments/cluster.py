"""Runs on the workers of a Dask cluster, so that whatever starts such workers (SLURM, Kubernetes, a cloud) does runs.

The scheduler is given as ``dask://HOST:PORT``. Its workers must see the same folders under the same paths, have the
same ``ong``, and run one thread each, as a run seeds the generators of its whole process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ong.console import say
from ong.errors import UserError
from ong.experiments.arguments import check_cluster
from ong.experiments.workers import LostWorkerError

if TYPE_CHECKING:
    from ong.experiments.jobs import Job, Outcome

__all__ = ["Cluster"]

_PATIENCE = 30  # seconds until a scheduler answers


class Cluster:
    """The workers of a Dask scheduler; a context manager that lets go of them.

    Attributes:
        client: Dask's own view of them.
    """

    def __init__(self, address: str) -> None:
        """Connect to a scheduler.

        Args:
            address: ``dask://HOST:PORT``.

        Raises:
            UserError: another form, no such scheduler, a worker of several threads, or no ``distributed`` installed.
        """
        check_cluster(address)
        try:
            client = import_module("distributed").Client
        except ImportError:
            raise UserError("--cluster needs the package distributed; install it: pip install 'ong[dask]'") from None
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what goes wrong is told as a failure
        try:
            self.client = client(address.replace("dask", "tcp", 1), timeout=_PATIENCE, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise UserError(f"--cluster '{address}': no scheduler answers there ({error})") from None
        workers = self.client.scheduler_info(n_workers=-1)["workers"]
        wide = next((name for name, told in workers.items() if told["nthreads"] != 1), None)
        self._asked: list[Any] = []
        if not workers:
            say(f"{address} has no worker yet; runs begin when one joins")
        if wide is not None:
            self.client.close()
            raise UserError(
                f"--cluster '{address}': worker {wide} runs {workers[wide]['nthreads']} threads; a run needs a process "
                "of its own: start workers with --nthreads 1"
            )

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Take back what has not been done, and disconnect."""
        self.client.close()

    def submit(self, job: Job, told: Callable[[int, int], None] = lambda done, total: None) -> Future[Outcome]:
        """Do a run on some worker; one whose worker dies is done once more, where it was, on another.

        Args:
            job: the run, its paths absolute.
            told: not called, as Dask tells nothing of a run before its end.

        Returns:
            A future of its outcome, or of a ``LostWorkerError``.
        """
        from ong.experiments.jobs import attempt

        ours: Future[Outcome] = Future()
        theirs = self.client.submit(attempt, job, pure=False)
        self._asked.append(theirs)  # Dask drops what nobody holds

        def note(done: Any) -> None:
            try:
                ours.set_result(done.result())
            except Exception as error:
                told = " ".join(str(error).split())
                ours.set_exception(LostWorkerError(f"the cluster gave it up ({type(error).__name__}: {told})"))

        theirs.add_done_callback(note)
        return ours
