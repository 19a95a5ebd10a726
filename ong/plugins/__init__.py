"""Avalanche training plugins: OGD, ONG and their kin."""

from ong.plugins.base import GradientPlugin
from ong.plugins.diagnostics import Diagnostics
from ong.plugins.ogd import OGD
from ong.plugins.ong import ONG

__all__ = ["OGD", "ONG", "Diagnostics", "GradientPlugin"]
