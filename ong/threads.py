"""numpy's and scipy's threads beside torch's.

The two are pools of their own, whose threads wait for each other where they share cores: with two cores and torch's and
OpenBLAS' defaults a symmetric product of 2,000 columns right after one of torch's took eight times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

__all__ = ["one_blas_thread", "one_thread"]


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep numpy's and scipy's BLAS and LAPACK to one thread; also a decorator."""
    libraries = _libraries()
    before = [library.num_threads for library in libraries]
    for library in libraries:
        library.set_num_threads(1)
    try:
        yield
    finally:
        for library, threads in zip(libraries, before, strict=True):
            library.set_num_threads(threads)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch, numpy and scipy to one thread, as every run is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):  # numpy's and scipy's, which torch does not rule
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def _libraries() -> list[Any]:
    import scipy.linalg  # noqa: F401  # its library is found once it is loaded

    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
