"""Continual-learning methods for any PyTorch loop: what a step becomes, and what a finished task leaves behind.

A file in this folder with a subclass of :class:`Method` is a method more: ``ong.methods.NAME``, and ``ong.NAME`` in
Avalanche. The imports below tell the names to type checkers.
"""

import sys
from typing import TYPE_CHECKING

from ong.extensions import offered, subclasses
from ong.methods.base import Method
from ong.methods.certificate import Certificate
from ong.methods.data import ByNumber, Examples
from ong.methods.directional import DirectionMethod
from ong.methods.ewc import EWC
from ong.methods.fopng import FOPNG
from ong.methods.gpm import GPM
from ong.methods.ncl import NCL
from ong.methods.ngd import NGD
from ong.methods.ogd import OGD
from ong.methods.ogd_plus import OGDPlus
from ong.methods.ong import ONG
from ong.methods.ong_prior import ONGPrior
from ong.methods.ong_replay import ONGReplay
from ong.methods.ong_v1 import ONGv1
from ong.methods.owm import OWM
from ong.methods.sgp import SGP
from ong.methods.si import SI

__all__ = [
    "EWC",
    "FOPNG",
    "GPM",
    "METHODS",
    "NCL",
    "NGD",
    "OGD",
    "ONG",
    "OWM",
    "SGP",
    "SI",
    "ByNumber",
    "Certificate",
    "DirectionMethod",
    "Examples",
    "Method",
    "OGDPlus",
    "ONGPrior",
    "ONGReplay",
    "ONGv1",
]

METHODS: dict[str, type[Method]] = {
    name: method for name, method in subclasses(__name__, Method).items() if method is not DirectionMethod
}
"""Every method by name."""

globals().update(METHODS)
__all__ += [name for name in METHODS if name not in __all__]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> type[Method]:
        """Return a method that another distribution offers under the entry points ``ong.methods``."""
        method = None if name.startswith("_") else offered("ong.methods", name)
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'", name=name, obj=sys.modules[__name__])
        return method
