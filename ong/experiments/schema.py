"""What recipes hold: the parts common to every kind of benchmark, and those of the continual ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

__all__ = [
    "MOST_EPOCHS",
    "BenchmarkRecipe",
    "Buildable",
    "ContinualBenchmark",
    "ContinualStrategy",
    "DatasetRecipe",
    "LoggerRecipe",
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


MOST_EPOCHS = 1_000_000
"""Passes over training data; more are a slip of the finger."""


class Strict(BaseModel):
    """A table in which an unknown key is an error."""

    model_config = ConfigDict(extra="forbid")


class NamedOrUsed(BaseModel):
    """Something built in by ``name``, or a class or function by ``use``, and its options.

    Attributes:
        name: of something built in.
        use: of one's own, as ``"module:Name"``.
    """

    model_config = ConfigDict(extra="allow")
    name: str | None = None
    use: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class LoggerRecipe(NamedOrUsed):
    """A logger, which takes what runs measure."""


class BenchmarkRecipe(Strict):
    """What is learned, of whatever kind.

    Attributes:
        name: what folders and reports call it; by default that of the recipe's file.
        summary: a line for ``ong list``.
        kind: which kind of benchmark it is.
        strategies: those that run when none are asked for; empty is the kind's own choice.
        tuned_as: a like benchmark, whose ``[on.…]`` values a strategy takes that has none for this one.
        loggers: who is told what is measured; no record depends on them.
    """

    name: Name
    summary: str
    kind: str
    strategies: list[str] = []
    tuned_as: str | None = None
    loggers: list[LoggerRecipe] = []

    def settings(self) -> dict[str, Any]:
        """Return what a record keeps: all that decides a run."""
        return self.model_dump(exclude={"strategies", "tuned_as", "loggers"})


class StrategyRecipe(Strict):
    """How a learner learns, of whatever kind.

    Attributes:
        name: what folders and reports call it; by default that of the recipe's file.
        summary: a line for ``ong list``.
        source: the paper, and how the code differs from it.
        needs: what others do without, such as ``"stored examples"``.
        on: values by benchmark, dotted keys in a table ``[on.BENCHMARK]``, that hold there.
        search: what ``ong tune`` searches, by dotted key.
    """

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
    """A class to be built, with its keyword arguments beside ``use``.

    Attributes:
        use: the class, as ``"module:Name"``.
    """

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
        plugins: Avalanche plugins, this project's methods among them.
        optimizer: what takes the steps.
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


class StreamRecipe(NamedOrUsed):
    """A stream, and its options."""


class ModelRecipe(NamedOrUsed):
    """A network.

    Attributes:
        head: ``"growing"``: its last layer has outputs of the classes so far; by default those of all classes, or one
            layer a task where the task is known.
    """

    head: Literal["growing"] | None = None


class DatasetRecipe(NamedOrUsed):
    """A data set with options."""

    @property
    def label(self) -> str:
        """What to call it."""
        return self.name or (self.use or "").rpartition(":")[2]


def _form_of_dataset(value: Any) -> str | None:
    if isinstance(value, str | list):
        return "name" if isinstance(value, str) else "list"
    return "table" if isinstance(value, dict | DatasetRecipe) else None


_FORM = Discriminator(
    _form_of_dataset,
    custom_error_type="dataset",
    custom_error_message="give a data set's name, a table with 'name' or 'use', or a list of these",
)
OneDataset = Annotated[Annotated[str, Tag("name")] | Annotated[DatasetRecipe, Tag("table")], _FORM]
AnyDataset = Annotated[
    Annotated[str, Tag("name")] | Annotated[DatasetRecipe, Tag("table")] | Annotated[list[OneDataset], Tag("list")],
    _FORM,
]
"""``"cifar100"``, ``{ name = "cifar100", labels = "coarse" }``, ``{ use = "module:Class", … }``, or a list of these."""


class TrainingRecipe(Strict):
    """How every strategy is trained and judged.

    Attributes:
        epochs: passes over each task.
        batch_size: examples a step.
        eval_batch_size: examples at once where accuracy is taken.
        device: where, not what.
        validation: train on five sixths of the training data and take accuracy on the other sixth; test images are
            not used at all.
        augment: random changes of training images: ``"crop"``, ``"flip"``, or a class by ``use``.
        online: a task comes in pieces of so many examples, one after the other; ``epochs`` are passes over each.
    """

    epochs: int = Field(ge=1, le=MOST_EPOCHS)
    batch_size: int = Field(ge=1)
    eval_batch_size: int = Field(default=500, ge=1)
    device: str = "auto"
    validation: bool = False
    augment: list[str | Buildable] = []
    online: int | None = Field(default=None, ge=1)


class ContinualBenchmark(BenchmarkRecipe):
    """A stream of tasks, learned one after the other.

    Attributes:
        dataset: by name or as a table; for the stream ``sequence`` a list.
        stream: how tasks are made of the data set.
        model: the network.
        training: epochs, batches, device.
        diagnostics: what is measured of each task besides what all runs measure.
    """

    kind: Literal["continual"]
    dataset: AnyDataset
    stream: StreamRecipe
    model: ModelRecipe
    training: TrainingRecipe
    diagnostics: list[Buildable] = []

    def settings(self) -> dict[str, Any]:
        """Return what a record keeps: all that decides a run, which the device does not."""
        beside = dict.fromkeys(("strategies", "tuned_as", "loggers"), True)
        kept = self.model_dump(exclude=beside | {"training": {"device"}})
        for table, name in (("training", "augment"), ("training", "online"), ("model", "head")):
            if not kept[table][name]:
                del kept[table][name]
        kept["stream"] = {key: value for key, value in kept["stream"].items() if value is not None}
        if not self.diagnostics:
            del kept["diagnostics"]
        return kept


def why_not(benchmark: ContinualBenchmark, strategy: ContinualStrategy) -> str | None:
    """Return why a strategy cannot learn a benchmark's stream, or None."""
    scenario = benchmark.stream.options.get("scenario", "domain")
    if scenario not in get_args(Scenario) or scenario in strategy.scenarios:
        return None
    return f"it learns only {' and '.join(strategy.scenarios)}-incremental streams, this one is {scenario}-incremental"
