"""What a diagnostic is: numbers of each finished task, and how they are shown."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, ClassVar, SupportsFloat

from avalanche.core import SupervisedPlugin

from ong.errors import UnknownNameError, UserError
from ong.plugins.boundaries import Boundaries
from ong.quantities import Quantity

__all__ = ["Diagnostic"]


class Diagnostic(SupervisedPlugin):  # type: ignore[misc]
    """Measures something of each task while a strategy trains, and changes nothing.

    A diagnostic of one's own says what it measures, and returns it at a task's end; a benchmark recipe names it under
    ``[[diagnostics]]``. It may look at every step too: it is a plugin, the first in the list, so that it sees gradients
    before any other changes them. The pieces of an online stream are one task.

    >>> from ong.plugins import Diagnostic
    >>> from ong.quantities import Quantity
    >>> class Size(Diagnostic):
    ...     quantities = {"size": Quantity(title="Size", about="of all weights", formula="‖θ_t‖", over="last")}
    ...     def end_task(self, strategy):
    ...         return {"size": sum(float(p.square().sum()) for p in strategy.model.parameters()) ** 0.5}

    Attributes:
        quantities: what is measured, by the name that records keep it under.
        measures: by name, one number a finished task; None where there is nothing to measure.
    """

    quantities: ClassVar[Mapping[str, Quantity]] = {}

    def __init__(self) -> None:
        """Start without tasks."""
        super().__init__()
        self.measures: dict[str, list[float | None]] = {name: [] for name in self.quantities}
        self._boundaries = Boundaries()

    def begin_task(self, strategy: Any) -> None:
        """Look at what a task begins with."""

    def end_task(self, strategy: Any) -> Mapping[str, float | None]:
        """Return what was measured of the task that ends, by name; what is left out is None.

        The methods' own ends of the task come after it.
        """
        raise NotImplementedError(f"{type(self).__name__} needs end_task(strategy), which returns what it measured")

    def kept(self) -> dict[str, Any]:
        """Return what else is kept from task to task, as tensors and plain values, so that runs can be resumed."""
        return {}

    def keep(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`kept` returned."""

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Begin a task."""
        if self._boundaries.begins(strategy.experience):
            self.begin_task(strategy)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """End it.

        Raises:
            UserError: it returns something else than numbers by name.
            UnknownNameError: something was measured that :attr:`quantities` does not name.
        """
        if not self._boundaries.ends(strategy.experience):
            return
        found = self.end_task(strategy)
        if not isinstance(found, Mapping) or not all(v is None or isinstance(v, SupportsFloat) for v in found.values()):
            raise UserError(
                f"diagnostic {type(self).__name__}: end_task returns numbers by name, or None for one that is not "
                f"there, got {reprlib.repr(found)}"
            )
        for name in found:
            if name not in self.measures:
                raise UnknownNameError(f"quantity of {type(self).__name__}", name, self.measures)
        for name, values in self.measures.items():
            value = found.get(name)
            values.append(None if value is None else float(value))

    def state_dict(self) -> dict[str, Any]:
        """Return what is kept from task to task and from step to step."""
        return {
            "measures": {name: list(values) for name, values in self.measures.items()},
            "first_piece": self._boundaries.first,
            "kept": self.kept(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        self.measures = {name: list(values) for name, values in state["measures"].items()}
        self._boundaries.first = state["first_piece"]
        self.keep(state["kept"])
