"""How far a random estimate of the Fisher is from it: estimators, closed-form variances, bounds.

Soen & Sun, arXiv 2107.04205, and its 2024 diagonal follow-up; ``closed_forms`` has the table of estimators.
"""

from ong.curvature.variance.bounds import CovarianceBounds, DiagonalBounds, covariance_bounds, diagonal_bounds
from ong.curvature.variance.categorical import Categorical
from ong.curvature.variance.closed_forms import ESTIMATORS
from ong.curvature.variance.diagonal import DiagonalVariances, diagonal_variances
from ong.curvature.variance.estimators import estimate_fisher, estimate_fisher_diagonal
from ong.curvature.variance.families import Family
from ong.curvature.variance.full import Derivatives, FisherCovariances, derivatives, fisher_covariances
from ong.curvature.variance.gaussian import Gaussian
from ong.curvature.variance.layer_errors import LayerError, measured_relative_std
from ong.curvature.variance.monte_carlo import MonteCarloCheck, monte_carlo_check
from ong.curvature.variance.planning import (
    LayerComparison,
    compare_estimators,
    compare_variances,
    draws_for_relative_error,
    draws_from_variances,
    relative_std,
)

__all__ = [
    "ESTIMATORS",
    "Categorical",
    "CovarianceBounds",
    "Derivatives",
    "DiagonalBounds",
    "DiagonalVariances",
    "Family",
    "FisherCovariances",
    "Gaussian",
    "LayerComparison",
    "LayerError",
    "MonteCarloCheck",
    "compare_estimators",
    "compare_variances",
    "covariance_bounds",
    "derivatives",
    "diagonal_bounds",
    "diagonal_variances",
    "draws_for_relative_error",
    "draws_from_variances",
    "estimate_fisher",
    "estimate_fisher_diagonal",
    "fisher_covariances",
    "measured_relative_std",
    "monte_carlo_check",
    "relative_std",
]
