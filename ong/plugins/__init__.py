"""Avalanche training plugins: the methods of :mod:`ong.methods`, diagnostics, training until it converges.

Every method there is a plugin here, by the same name: a method in a new file is one too.
"""

from __future__ import annotations

from ong import methods
from ong.plugins.adapter import MethodPlugin, as_plugin
from ong.plugins.convergence import UntilConverged
from ong.plugins.diagnostics import Certificate, Diagnostic, Diagnostics

__all__ = ["Certificate", "Diagnostic", "Diagnostics", "MethodPlugin", "UntilConverged", "as_plugin"]
__all__ += list(methods.METHODS)


def __getattr__(name: str) -> type[MethodPlugin]:
    """Return a method's plugin."""
    method = None if name.startswith("_") else getattr(methods, name, None)
    if not (isinstance(method, type) and issubclass(method, methods.Method)):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return as_plugin(method)


def __dir__() -> list[str]:
    return sorted(__all__)
