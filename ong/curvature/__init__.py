"""What a network's Fisher looks like: per-example gradients, eigenbases, Fisher types."""

from ong.curvature.batches import Batch, Forward, batch_size, checked_logits, logits_of, map_batch, select, targets_of
from ong.curvature.blocks import Block, Vector, dense_gradient, evaluating, find_blocks, inner, norm
from ong.curvature.changes import (
    Run,
    Weights,
    first_order_change,
    gradients_at,
    metric_change,
    outputs_at,
    remainder_bound,
)
from ong.curvature.cover import PROBED, cover
from ong.curvature.diagonal import DiagonalBlock, diagonal_fisher
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.ekfac import EKFAC
from ong.curvature.examples import example_gradients
from ong.curvature.factors import Factors, Lookups
from ong.curvature.fisher import FISHER_TYPES, FisherType, check_fisher, cotangents, needs_likelihood, residual
from ong.curvature.inputs import affine_blocks, affine_layers, input_covariances
from ong.curvature.layers import Call, LayerFactors, Layout, UnsupportedLayerError, layer_factors, layer_layouts
from ong.curvature.likelihoods import (
    LIKELIHOODS,
    Likelihood,
    check_likelihood,
    likelihood_of,
    likelihood_of_targets,
    negative_log_likelihood,
)
from ong.curvature.metric import Metric
from ong.curvature.operators import DiagonalOperator, Operator, ThinOperator
from ong.curvature.penalties import DiagonalPenalty, EKFACPenalty
from ong.curvature.positions import MOST_FACTORS, factor_numbers, gradients_of_few, positions_of
from ong.curvature.precision import double, holds, without_autocast
from ong.curvature.sketch import is_wide, sketch_width
from ong.curvature.tape import record

__all__ = [
    "EKFAC",
    "FISHER_TYPES",
    "LIKELIHOODS",
    "MOST_FACTORS",
    "PROBED",
    "Batch",
    "Block",
    "Call",
    "DiagonalBlock",
    "DiagonalOperator",
    "DiagonalPenalty",
    "EKFACPenalty",
    "EigenBlock",
    "Factors",
    "FisherType",
    "Forward",
    "LayerFactors",
    "Layout",
    "Likelihood",
    "Lookups",
    "Metric",
    "Operator",
    "Run",
    "ThinOperator",
    "UnsupportedLayerError",
    "Vector",
    "Weights",
    "affine_blocks",
    "affine_layers",
    "batch_size",
    "check_fisher",
    "check_likelihood",
    "checked_logits",
    "cotangents",
    "cover",
    "dense_gradient",
    "diagonal_fisher",
    "double",
    "evaluating",
    "example_gradients",
    "factor_numbers",
    "find_blocks",
    "first_order_change",
    "gradients_at",
    "gradients_of_few",
    "holds",
    "inner",
    "input_covariances",
    "is_wide",
    "layer_factors",
    "layer_layouts",
    "likelihood_of",
    "likelihood_of_targets",
    "logits_of",
    "map_batch",
    "metric_change",
    "needs_likelihood",
    "negative_log_likelihood",
    "norm",
    "outputs_at",
    "positions_of",
    "record",
    "remainder_bound",
    "residual",
    "select",
    "sketch_width",
    "targets_of",
    "without_autocast",
]
