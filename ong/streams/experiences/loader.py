"""An Avalanche plugin that feeds tensors in memory to a strategy, batch by batch."""

from __future__ import annotations

from typing import Any, NamedTuple

from avalanche.benchmarks.utils.data_loader import SingleDatasetDataLoader, TaskBalancedDataLoader
from avalanche.training.plugins import SupervisedPlugin
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from ong.streams.experiences.columns import in_memory_columns
from ong.streams.tensors import TensorLoader

__all__ = ["InMemoryLoader", "TensorLoader"]


class _Plan(NamedTuple):
    """How one of Avalanche's own loaders would cut its data."""

    batch_size: int
    shuffle: bool
    drop_last: bool


def _stock_plan(loader: Any, dataset: Any) -> _Plan | None:
    """Return the plan of a loader that Avalanche's templates made over ``dataset``, or None for any other."""
    if type(loader) is DataLoader:
        sampler: Any = loader.sampler
        rows: int = len(dataset)
        if loader.dataset is not dataset or loader.batch_size is None:
            return None
        if type(sampler) is SequentialSampler:
            return _Plan(loader.batch_size, False, loader.drop_last)
        if type(sampler) is RandomSampler and not sampler.replacement and len(sampler) == rows:
            return _Plan(loader.batch_size, True, loader.drop_last)
        return None
    if type(loader) in (TaskBalancedDataLoader, SingleDatasetDataLoader) and len(loader.datasets) == 1:
        options = loader.loader_kwargs
        return _Plan(loader.batch_sizes[0], bool(options.get("shuffle")), bool(options.get("drop_last")))
    return None


class InMemoryLoader(SupervisedPlugin):  # type: ignore[misc]  # Avalanche is untyped
    """Replace Avalanche's data loaders by :class:`TensorLoader` wherever the data are tensors in memory.

    The order of the training examples depends on ``seed``, the experience's index and the epoch only, so that
    every strategy sees the same order, and the global generators are left alone.

    It replaces only loaders that the templates themselves made, and keeps their batch size, shuffling and
    ``drop_last``. It keeps hands off data that are transformed, lie elsewhere or have a collate function of
    their own, off task-balanced batches of several tasks, and off any loader that another plugin has set,
    such as ``ReplayPlugin``'s from the second experience on. It may stand anywhere among the plugins.

    Args:
        seed: Non-negative seed of the order.
    """

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        if seed < 0:
            raise ValueError(f"seed is {seed}, expected at least 0")
        self.seed = seed

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the training loader."""
        self._replace(strategy)

    def before_eval_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the evaluation loader."""
        self._replace(strategy)

    def _replace(self, strategy: Any) -> None:
        dataset = strategy.adapted_dataset
        plan = _stock_plan(strategy.dataloader, dataset)
        columns = None if plan is None else in_memory_columns(dataset)
        if plan is None or columns is None:
            return
        strategy.dataloader = TensorLoader(
            columns,
            batch_size=plan.batch_size,
            shuffle=plan.shuffle,
            seed=(self.seed, strategy.experience.current_experience),
            drop_last=plan.drop_last,
        )
