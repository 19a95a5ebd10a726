"""torch's threads and those of numpy's and scipy's BLAS do not run beside one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from ong.curvature import covariances
from ong.threads import one_blas_thread


def blas_threads() -> set[int]:
    """How many threads each BLAS may use, which are all alike."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(params=[1, 2])
def torch_threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """torch with one thread or two, and BLAS with two."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    with threadpool_limits(2, user_api="blas"):
        yield request.param
    torch.set_num_threads(before)


def test_blas_has_one_thread_whatever_torch_has_and_its_own_number_after(torch_threads: int) -> None:
    within: list[set[int]] = []

    @one_blas_thread()
    def fail() -> None:
        within.append(blas_threads())
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert within == [{1}]
    assert blas_threads() == {2}


CALLS: dict[str, tuple[Any, str, Callable[[], Any]]] = {
    "moments": (covariances, "get_blas_funcs", lambda: covariances._upper_moment(torch.ones(4, 3))),
}


@pytest.mark.parametrize("name", CALLS)
def test_scipy_is_called_on_one_thread(name: str, torch_threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    module, function, call = CALLS[name]
    seen: list[set[int]] = []
    original = getattr(module, function)

    def noting(*args: Any, **kwargs: Any) -> Any:
        seen.append(blas_threads())
        return original(*args, **kwargs)

    monkeypatch.setattr(module, function, noting)
    call()
    assert seen == [{1}]
