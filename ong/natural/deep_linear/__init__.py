"""The exact natural gradient of deep linear networks: closed forms, theory of their paths, and training.

Source: Bernacchia, Lengyel, Hennequin, "Exact natural gradient in deep linear networks and its application to
the nonlinear case", NeurIPS 2018; the minimum-norm and any-width forms are this project's.
"""

from ong.natural.deep_linear.convergence import (
    FAILURE_CASES,
    ConvergenceShare,
    convergence_share,
    where_it_fails,
)
from ong.natural.deep_linear.damping import LevenbergMarquardt
from ong.natural.deep_linear.exactness import FORMS, Exactness, exactness
from ong.natural.deep_linear.fisher import (
    EXPLICIT_LIMIT,
    fisher_matrix,
    fisher_product,
    flatten,
    natural_gradient_residual,
    unflatten,
)
from ong.natural.deep_linear.history import DivergedError, EpochRecord, History
from ong.natural.deep_linear.network import DeepLinearNetwork, check_dims
from ong.natural.deep_linear.newton import NEWTON_LIMIT, hessian_matrix, newton_step
from ong.natural.deep_linear.problem import LinearProblem, batch_gradients
from ong.natural.deep_linear.settings import (
    NETS,
    LinearData,
    dims_of,
    input_covariance,
    make_data,
    make_problem,
)
from ong.natural.deep_linear.steps import (
    MINIMUM_NORM_LIMIT,
    any_width_step,
    layer_counts,
    minimum_norm_step,
    paper_step,
)
from ong.natural.deep_linear.strategies import STRATEGIES, Strategy, gradient_step, strategy_of
from ong.natural.deep_linear.training import InexactFormWarning, TrainingState, train
from ong.natural.deep_linear.trajectories import (
    blow_up_time,
    discrete_rate,
    eigenvalue_recursion,
    flow_excess_ratio,
    flow_product,
    square_recursion,
    teacher_eigenvalues,
)
from ong.natural.deep_linear.tuning import tune_learning_rate

__all__ = [
    "EXPLICIT_LIMIT",
    "FAILURE_CASES",
    "FORMS",
    "MINIMUM_NORM_LIMIT",
    "NETS",
    "NEWTON_LIMIT",
    "STRATEGIES",
    "ConvergenceShare",
    "DeepLinearNetwork",
    "DivergedError",
    "EpochRecord",
    "Exactness",
    "History",
    "InexactFormWarning",
    "LevenbergMarquardt",
    "LinearData",
    "LinearProblem",
    "Strategy",
    "TrainingState",
    "any_width_step",
    "batch_gradients",
    "blow_up_time",
    "check_dims",
    "convergence_share",
    "dims_of",
    "discrete_rate",
    "eigenvalue_recursion",
    "exactness",
    "fisher_matrix",
    "fisher_product",
    "flatten",
    "flow_excess_ratio",
    "flow_product",
    "gradient_step",
    "hessian_matrix",
    "input_covariance",
    "layer_counts",
    "make_data",
    "make_problem",
    "minimum_norm_step",
    "natural_gradient_residual",
    "newton_step",
    "paper_step",
    "square_recursion",
    "strategy_of",
    "teacher_eigenvalues",
    "train",
    "tune_learning_rate",
    "unflatten",
    "where_it_fails",
]
