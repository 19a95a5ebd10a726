"""What recipes hold: the parts common to every kind of benchmark, and those of the continual ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BenchmarkRecipe",
    "Buildable",
    "ContinualBenchmark",
    "ContinualStrategy",
    "ModelRecipe",
    "StrategyRecipe",
    "StreamRecipe",
    "Strict",
    "TrainingRecipe",
]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
"""Names of recipes name folders and files: letters, digits and ``._+-``."""


class Strict(BaseModel):
    """A table in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class BenchmarkRecipe(Strict):
    """What is learned, of whatever kind.

    Attributes:
        strategies: those that run when none are asked for; empty is the kind's own choice.
        tuned_as: a like benchmark, whose ``[on.…]`` values a strategy takes that has none for this one.
    """

    name: Name
    summary: str
    kind: str
    strategies: list[str] = []
    tuned_as: str | None = None

    def settings(self) -> dict[str, Any]:
        """Return what a record keeps: all that decides a run."""
        return self.model_dump(exclude={"strategies", "tuned_as"})


class StrategyRecipe(Strict):
    """How a learner learns, of whatever kind."""

    name: Name
    summary: str
    source: str
    needs: list[str] = []
    on: dict[str, dict[str, Any]] = {}
    search: dict[str, dict[str, Any]] = {}

    def settings(self) -> dict[str, Any]:
        """Return what a record keeps: all that decides a run."""
        return self.model_dump(exclude={"on", "search"})


class Buildable(BaseModel):
    """A class to be built: ``use = "module:Name"`` and its keyword arguments beside it."""

    model_config = ConfigDict(extra="allow")
    use: str

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class ContinualStrategy(StrategyRecipe):
    """How a learner learns task after task."""

    template: str = "avalanche.training.supervised:Naive"
    plugins: list[Buildable] = []
    optimizer: Buildable


class StreamRecipe(BaseModel):
    """A stream by name, and its options."""

    model_config = ConfigDict(extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """The stream builder's keyword arguments."""
        return dict(self.model_extra or {})


class ModelRecipe(BaseModel):
    """A built-in network by ``name``, or a class by ``use``, and its options."""

    model_config = ConfigDict(extra="allow")
    name: str | None = None
    use: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The network's keyword arguments."""
        return dict(self.model_extra or {})


class TrainingRecipe(Strict):
    """Passes over each task and examples a step, the same for every strategy; ``device`` is where, not what."""

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(default=500, ge=1)
    device: str = "auto"


class ContinualBenchmark(BenchmarkRecipe):
    """A stream of tasks, learned one after the other."""

    kind: Literal["continual"]
    dataset: str
    stream: StreamRecipe
    model: ModelRecipe
    training: TrainingRecipe

    def settings(self) -> dict[str, Any]:
        """Return what a record keeps: all that decides a run, which the device does not."""
        return self.model_dump(exclude={"strategies": True, "tuned_as": True, "training": {"device"}})
