"""Continual-learning methods for any PyTorch loop: what a step becomes, and what a finished task leaves behind."""

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
