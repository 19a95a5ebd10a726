"""What a network's Fisher looks like: layer factors, eigenbases, Fisher types."""

from ong.curvature.blocks import Block, Unsupported, Vector, evaluating, find_blocks, inner, norm
from ong.curvature.diagonal import diagonal_fisher
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.ekfac import EKFAC, Batch, Forward
from ong.curvature.factors import Factors, PassTape, record
from ong.curvature.fisher import FISHER_TYPES, FisherType, check_fisher, cotangents
from ong.curvature.inputs import affine_blocks, input_covariances
from ong.curvature.layers import LayerFactors, UnsupportedLayerError, layer_factors
from ong.curvature.metric import BlockMetric, Metric
from ong.curvature.own_blocks import own_blocks
from ong.curvature.penalties import DiagonalPenalty, EKFACPenalty
from ong.curvature.running import RunningEKFAC

__all__ = [
    "EKFAC",
    "FISHER_TYPES",
    "Batch",
    "Block",
    "BlockMetric",
    "DiagonalPenalty",
    "EKFACPenalty",
    "EigenBlock",
    "Factors",
    "FisherType",
    "Forward",
    "LayerFactors",
    "Metric",
    "PassTape",
    "RunningEKFAC",
    "Unsupported",
    "UnsupportedLayerError",
    "Vector",
    "affine_blocks",
    "check_fisher",
    "cotangents",
    "diagonal_fisher",
    "evaluating",
    "find_blocks",
    "inner",
    "input_covariances",
    "layer_factors",
    "norm",
    "own_blocks",
    "record",
]
