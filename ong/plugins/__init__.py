"""Avalanche training plugins: the methods of :mod:`ong.methods`, diagnostics, training until it converges."""

from ong.plugins.adapter import (
    EWC,
    FOPNG,
    GPM,
    NCL,
    NGD,
    OGD,
    ONG,
    OWM,
    SGP,
    SI,
    MethodPlugin,
    OGDPlus,
    ONGPrior,
    ONGReplay,
    ONGv1,
)
from ong.plugins.certificate import Certificate
from ong.plugins.convergence import UntilConverged
from ong.plugins.diagnostics import Diagnostics

__all__ = [
    "EWC",
    "FOPNG",
    "GPM",
    "NCL",
    "NGD",
    "OGD",
    "ONG",
    "OWM",
    "SGP",
    "SI",
    "Certificate",
    "Diagnostics",
    "MethodPlugin",
    "OGDPlus",
    "ONGPrior",
    "ONGReplay",
    "ONGv1",
    "UntilConverged",
]
