"""Processes that do one run each at a time: one that dies costs its own run alone, and none outlives its parent.

A worker is a Python of its own at the other end of two pipes. It ends as soon as the pipe it is asked through closes,
whatever it is doing; so no worker is left where the parent is killed. Nothing else is shared: no semaphore, no file, no
further process. (loky, the pool of joblib, ends all of its workers where one dies.)
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from ong.console import warnings_in_a_line

if TYPE_CHECKING:
    from ong.experiments.jobs import Job, Outcome

__all__ = ["LostWorkerError", "Workers", "serve"]

_START = "import sys; sys.path[:] = sys.argv[1:]; from ong.experiments.workers import serve; serve()"
_SIZE = 8  # bytes that tell a request's own
_PATIENCE = 5.0  # seconds in which a worker puts its things in order

Told = Callable[[int, int], None]
"""Takes the number of parts that a run has finished, and of all it has."""


class LostWorkerError(RuntimeError):
    """The process that did a run died, and so did the one after it; the message says how."""


class Workers:
    """So many processes, started when they are first needed; a context manager that ends them."""

    def __init__(self, count: int) -> None:
        """Start no process yet."""
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="ong-worker")
        self._idle: list[_Worker] = []
        self._all: list[_Worker] = []
        self._closed = False

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End all workers; runs in the middle stay resumable."""
        self._closed = True
        for worker in list(self._all):
            worker.end()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for worker in self._all:
            worker.wait()

    def submit(self, job: Job, told: Told = lambda done, total: None) -> Future[Outcome]:
        """Do a run as soon as a worker is free; one whose worker dies is begun once more, where it was.

        Args:
            job: the run.
            told: called from another thread with its progress.

        Returns:
            A future of its outcome, or of a ``LostWorkerError``.
        """
        return self._threads.submit(self._do, job, told)

    def _do(self, job: Job, told: Told) -> Outcome:
        for last in (False, True):
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = self._start()
            try:
                outcome = worker.do(job, told)
            except (EOFError, OSError, pickle.UnpicklingError):
                died = worker.wait()
                self._all.remove(worker)
                if last or self._closed:
                    raise LostWorkerError(
                        f"its worker process {died}, twice; a system that is short of memory ends processes "
                        "(--jobs 1 takes the least)"
                    ) from None
            else:
                self._idle.append(worker)
                return outcome
        raise AssertionError

    def _start(self) -> _Worker:
        worker = _Worker()
        self._all.append(worker)
        if self._closed:
            worker.end()
        return worker


class _Worker:
    """One process, seen from its parent."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START, *sys.path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def do(self, job: Job, told: Told) -> Outcome:
        """Have a run done.

        Raises:
            EOFError: the process died; or any of the errors that half a message gives.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = pickle.dumps(job)
        self._process.stdin.write(len(request).to_bytes(_SIZE, "little") + request)
        self._process.stdin.flush()
        while True:
            answer = pickle.load(self._process.stdout)
            if not isinstance(answer, tuple):
                outcome: Outcome = answer
                return outcome
            told(*answer)

    def end(self) -> None:
        """Ask the process to end; its run's lock is let go of."""
        with suppress(OSError):
            self._process.terminate()

    def wait(self) -> str:
        """Wait for the end of the process, and say what ended it."""
        try:
            code = self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        if code >= 0:
            return f"ended by itself with exit code {code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"


def _send(pipe: BinaryIO, message: Any) -> None:
    pickle.dump(message, pipe)
    pipe.flush()


class _Relay:
    """A run's progress, sent to the parent."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe, self._done, self._total = pipe, 0, 0

    def start_run(self, tasks: int, done: int, unit: str = "task") -> None:
        self._done, self._total = done, tasks
        _send(self._pipe, (self._done, self._total))

    def start_task(self, steps: int) -> None:
        pass

    def step(self) -> None:
        pass

    def end_task(self) -> None:
        self._done += 1
        _send(self._pipe, (self._done, self._total))

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        pass


def serve() -> None:
    """Do the runs that come through the standard input, until it closes: what a worker process does."""
    requests, replies = os.dup(0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)  # what a run prints is no answer
    except OSError:  # there is no error stream
        os.dup2(nothing, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends its workers
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    jobs: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(requests, jobs), daemon=True).start()
    try:
        with warnings_in_a_line():
            while True:
                _send(replies, _outcome(jobs.get(), _Relay(replies)))
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(0)  # the thread that reads cannot be ended otherwise


def _read(pipe: int, jobs: SimpleQueue[bytes]) -> None:
    """Pass requests on, and end the process, whatever it is doing, when no more can come."""
    with suppress(EOFError):
        while True:
            jobs.put(_exactly(pipe, int.from_bytes(_exactly(pipe, _SIZE), "little")))
    os._exit(1)


def _exactly(pipe: int, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        part = os.read(pipe, count - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _outcome(request: bytes, relay: _Relay) -> Outcome:
    from ong.experiments.jobs import attempt  # torch and Avalanche, which take seconds

    return attempt(pickle.loads(request), relay)
