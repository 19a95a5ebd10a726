"""The natural gradient of nonlinear networks, estimated on minibatches: a torch optimizer.

Source: Bernacchia, Lengyel, Hennequin, "Exact natural gradient in deep linear networks and its application to
the nonlinear case", NeurIPS 2018, section 4.
"""

from ong.natural.online.curvature import OnlineCurvature
from ong.natural.online.inverses import EigenInverse, KroneckerInverse, balance_of, damped_inverse
from ong.natural.online.likelihoods import (
    LIKELIHOODS,
    Bernoulli,
    Categorical,
    Gaussian,
    Likelihood,
    likelihood_of,
)
from ong.natural.online.moments import Moments, batch_moments
from ong.natural.online.objective import Closure, Objective
from ong.natural.online.optimizer import NaturalGradient
from ong.natural.online.settings import DEFAULT_DAMPING, NonFiniteStepError, Settings, StepReport
from ong.natural.online.trust import TrustRegion

__all__ = [
    "DEFAULT_DAMPING",
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "Closure",
    "EigenInverse",
    "Gaussian",
    "KroneckerInverse",
    "Likelihood",
    "Moments",
    "NaturalGradient",
    "NonFiniteStepError",
    "Objective",
    "OnlineCurvature",
    "Settings",
    "StepReport",
    "TrustRegion",
    "balance_of",
    "batch_moments",
    "damped_inverse",
    "likelihood_of",
]
