"""The diagnostics of a run that are not in every record: those of a recipe, and new ones in the package's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ong.errors import UserError
from ong.experiments.build import build
from ong.experiments.schema import Buildable
from ong.extensions import subclasses
from ong.metrics import METRICS
from ong.plugins import Diagnostic

__all__ = ["own_diagnostics", "quantities_of"]

_KEPT = ("memory_bytes", "train_seconds", "steps", "directions", "directions_dropped", "directions_captured")


def own_diagnostics(recipes: Sequence[Buildable], usual: Sequence[Diagnostic], **given: Any) -> list[Diagnostic]:
    """Build the diagnostics of a run.

    Args:
        recipes: what the benchmark names.
        usual: those that every run has already.
        given: keyword arguments for those that have such parameters, such as ``seed``.

    Raises:
        UserError: a class or options that cannot be built, or two quantities of one name.
    """
    found = subclasses("ong.plugins.diagnostics", Diagnostic).values()
    new = [Buildable(use=f"{kind.__module__}:{kind.__name__}") for kind in found if kind not in map(type, usual)]
    made: list[Diagnostic] = [build(part, Diagnostic, "diagnostic", **given) for part in [*new, *recipes]]
    names = [*_KEPT, *METRICS, *(name for diagnostic in usual for name in diagnostic.measures)]
    for diagnostic in made:
        for name in diagnostic.quantities:
            if name in names:
                raise UserError(f"diagnostic {type(diagnostic).__name__}: '{name}' is measured already; rename it")
            names.append(name)
    return made


def quantities_of(diagnostics: Sequence[Diagnostic]) -> dict[str, dict[str, Any]]:
    """Return what a record keeps of how their numbers are shown: nothing where there are none."""
    described = {name: asdict(about) for part in diagnostics for name, about in part.quantities.items()}
    return {"quantities": described} if described else {}
