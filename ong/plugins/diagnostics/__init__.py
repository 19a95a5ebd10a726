"""What runs measure of each task besides accuracies: a file here holds a :class:`Diagnostic`, and all runs have it."""

from ong.plugins.diagnostics.base import Diagnostic
from ong.plugins.diagnostics.certificate import Certificate
from ong.plugins.diagnostics.steps import Diagnostics

__all__ = ["Certificate", "Diagnostic", "Diagnostics"]
