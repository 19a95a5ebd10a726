"""Collecting garbage, which transformers' Trainer does each time it trains, leaves alone what imports have made."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _frozen() -> Iterator[None]:
    gc.freeze()
    yield
    gc.unfreeze()
