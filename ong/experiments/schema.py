"""What recipes hold: the parts common to every kind of benchmark, and those of the continual ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BenchmarkRecipe",
    "Buildable",
    "ContinualBenchmark",
    "ContinualStrategy",
    "MemoryRecipe",
    "ModelRecipe",
    "StrategyRecipe",
    "StreamRecipe",
    "Strict",
    "TrainingRecipe",
    "why_not",
]


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+@-]*$")]
"""Names of recipes name folders and files: letters, digits and ``._+-``, and ``@`` before a budget of memory."""


Scenario = Literal["domain", "class", "task"]
"""The same labels in all tasks, the task unknown; new classes in each; the same labels, and the task is known."""


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


class MemoryRecipe(Strict):
    """How much of the past a strategy keeps.

    Attributes:
        knob: dotted keys of whole numbers that rule it, such as examples stored; of several the first that suffices.
        least: the smallest value of a knob.
        budget: most bytes that may be kept between tasks; a run that keeps more stops.
        value: the knob's in a run that was sized to the budget.
    """

    knob: str | list[str]
    least: int = Field(default=1, ge=1)
    budget: int | None = Field(default=None, ge=1)
    value: int | None = None


class ContinualStrategy(StrategyRecipe):
    """How a learner learns task after task.

    Attributes:
        template: Avalanche's training loop.
        wrapper: a module that is built around the benchmark's network, where the method needs one.
        scenarios: what kinds of stream it learns; a stream that does not say its scenario is domain-incremental.
        memory: what sizes it to a budget; a record has it where there was one.
    """

    template: Buildable = Buildable(use="avalanche.training.supervised:Naive")
    wrapper: Buildable | None = None
    plugins: list[Buildable] = []
    optimizer: Buildable
    scenarios: list[Scenario] = ["domain", "class", "task"]
    memory: MemoryRecipe | None = None

    def settings(self) -> dict[str, Any]:
        """Return what a record keeps: all that decides a run."""
        kept = super().settings()
        del kept["scenarios"]
        if self.memory is None or self.memory.budget is None:
            del kept["memory"]
        return kept


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
    """How every strategy is trained and judged.

    Attributes:
        epochs: passes over each task.
        batch_size: examples a step.
        eval_batch_size: examples at once where accuracy is taken.
        device: where, not what.
        validation: train on five sixths of the training data and take accuracy on the other sixth; test images are
            not used at all.
    """

    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(default=500, ge=1)
    device: str = "auto"
    validation: bool = False


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


def why_not(benchmark: ContinualBenchmark, strategy: ContinualStrategy) -> str | None:
    """Return why a strategy cannot learn a benchmark's stream, or None."""
    scenario = benchmark.stream.options.get("scenario", "domain")
    if scenario not in get_args(Scenario) or scenario in strategy.scenarios:
        return None
    return f"it learns only {' and '.join(strategy.scenarios)}-incremental streams, this one is {scenario}-incremental"
