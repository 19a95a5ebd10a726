"""One thread in all tests: the nets are small, and more threads only wait for each other."""

import gc
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with the most slow tests come first, or one of them would go on alone at the end."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


@pytest.fixture(autouse=True, scope="session")
def what_was_imported_is_no_garbage() -> None:
    """Each run collects garbage; looking through all modules for it takes longer than many a run here."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def modules_written_by_a_test_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Another test may write a module of the same name."""
    before = set(sys.modules)
    yield
    folder = str(tmp_path_factory.getbasetemp())
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
            del sys.modules[name]
