"""The kinds of benchmark: what their recipes hold, where their strategies lie, and which class runs them.

A new kind is an entry here, a ``schema`` module and a run class; its report is an entry in
:mod:`ong.report.documents`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol

from ong.errors import UnknownNameError
from ong.experiments.autoencoder import schema as autoencoder
from ong.experiments.deep_linear import schema as deep_linear
from ong.experiments.fisher.schema import FisherBenchmark, FisherStrategy
from ong.experiments.progress import Progress
from ong.experiments.schema import (
    BenchmarkRecipe,
    ContinualBenchmark,
    ContinualStrategy,
    StrategyRecipe,
    why_not,
)
from ong.experiments.store import RunFolder

__all__ = ["KINDS", "Kind", "Merit", "Run", "kind_of"]


class Run(Protocol):
    """A benchmark, a strategy and a seed, ready to run; building it checks everything.

    Attributes:
        settings: what decides the run, as the record keeps it: ``benchmark``, ``strategy``, ``seed``.
    """

    settings: dict[str, Any]

    @property
    def units(self) -> int:
        """How many tasks or epochs it will announce to a :class:`Progress`."""
        ...

    @property
    def place(self) -> dict[str, int]:
        """Where it is, for the report of a failure: ``{"task": 3}`` or ``{"epoch": 3}``."""
        ...

    def run(self, folder: RunFolder, progress: Progress) -> dict[str, Any]:
        """Do what is not yet done and return the record, which is written to the folder too."""
        ...


def _suits(benchmark: Any, strategy: Any) -> str | None:
    return None


@dataclass(frozen=True)
class Merit:
    """What ``ong tune`` looks for.

    Attributes:
        metric: of the record.
        better: whether more or less of it is.
        means: what it is taken on, in words.
        near: by how much a trial may be worse than the best and still count as as good.
        changes: what a search changes in the benchmark, so that nothing is chosen by test data.
    """

    metric: str
    better: Literal["higher", "lower"]
    means: str
    near: float
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kind:
    """One kind of benchmark.

    Attributes:
        name: as in a recipe's ``kind``.
        benchmark: what its benchmark recipes hold.
        strategy: what its strategy recipes hold.
        run: ``module:Class`` of a :class:`Run`, imported when one is made.
        defaults: strategies that run when neither the user nor the recipe names any; all of the kind when empty.
        why_not: why a strategy cannot run on a benchmark, or None; such ones are left out of the defaults.
        merit: what a search over its strategies' settings improves; None where there is no search.
    """

    name: str
    benchmark: type[BenchmarkRecipe]
    strategy: type[StrategyRecipe]
    run: str
    defaults: tuple[str, ...] = ()
    why_not: Callable[[Any, Any], str | None] = _suits
    merit: Merit | None = None

    @property
    def folder(self) -> str:
        """Where the package keeps its strategies: those of continual learning on top, others in a folder each."""
        return "strategies" if self.name == "continual" else f"strategies/{self.name}"

    def make_run(self, benchmark: BenchmarkRecipe, strategy: StrategyRecipe, seed: int, data_root: Path | None) -> Run:
        """Build a run.

        Raises:
            UserError: whatever is wrong with the recipes or the data.
        """
        module, _, name = self.run.partition(":")
        made: Run = getattr(import_module(module), name)(benchmark, strategy, seed, data_root)
        return made


KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "continual",
            ContinualBenchmark,
            ContinualStrategy,
            "ong.experiments.continual:ContinualRun",
            defaults=("naive", "ewc", "ogd", "ong", "ong-prior", "joint"),
            why_not=why_not,
            merit=Merit(
                "ACC",
                "higher",
                "on a sixth of each task's training data, which the trial did not train on; no test image was used",
                0.002,
                {"training.validation": True},
            ),
        ),
        Kind(
            "deep-linear",
            deep_linear.DeepLinearBenchmark,
            deep_linear.DeepLinearStrategy,
            "ong.experiments.deep_linear.run:DeepLinearRun",
            why_not=deep_linear.why_not,
        ),
        Kind(
            "autoencoder",
            autoencoder.AutoencoderBenchmark,
            autoencoder.AutoencoderStrategy,
            "ong.experiments.autoencoder.run:AutoencoderRun",
            why_not=autoencoder.why_not,
            merit=Merit("train_loss", "lower", "on the training images, which no test image enters", 0.5),
        ),
        Kind("fisher", FisherBenchmark, FisherStrategy, "ong.experiments.fisher.run:FisherRun"),
    )
}


def kind_of(name: str) -> Kind:
    """Return a kind by name.

    Raises:
        UnknownNameError: no such kind.
    """
    if name not in KINDS:
        raise UnknownNameError("kind of benchmark", name, KINDS)
    return KINDS[name]
