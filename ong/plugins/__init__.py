"""Avalanche training plugins: OGD, ONG and their kin."""

from ong.plugins.base import GradientPlugin
from ong.plugins.diagnostics import Diagnostics
from ong.plugins.ewc import EWC
from ong.plugins.fopng import FOPNG
from ong.plugins.gpm import GPM
from ong.plugins.ncl import NCL
from ong.plugins.ogd import OGD
from ong.plugins.ong import ONG
from ong.plugins.owm import OWM
from ong.plugins.si import SI

__all__ = ["EWC", "FOPNG", "GPM", "NCL", "OGD", "ONG", "OWM", "SI", "Diagnostics", "GradientPlugin"]
