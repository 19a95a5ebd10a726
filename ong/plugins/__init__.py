"""Avalanche training plugins: the methods of :mod:`ong.methods`, and diagnostics."""

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
    ONGv1,
)
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
    "Diagnostics",
    "MethodPlugin",
    "OGDPlus",
    "ONGPrior",
    "ONGv1",
]
