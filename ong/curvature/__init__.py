"""What a network's Fisher looks like: layer factors, eigenbases, Fisher types."""

from ong.curvature.blocks import Block, Unsupported, Vector, evaluating, find_blocks, inner, norm
from ong.curvature.eigenblock import EigenBlock
from ong.curvature.ekfac import EKFAC, Batch, Forward
from ong.curvature.factors import Factors, record
from ong.curvature.fisher import FISHER_TYPES, FisherType, check_fisher, cotangents
from ong.curvature.layers import LayerFactors, UnsupportedLayerError, layer_factors
from ong.curvature.metric import BlockMetric, Metric

__all__ = [
    "EKFAC",
    "FISHER_TYPES",
    "Batch",
    "Block",
    "BlockMetric",
    "EigenBlock",
    "Factors",
    "FisherType",
    "Forward",
    "LayerFactors",
    "Metric",
    "Unsupported",
    "UnsupportedLayerError",
    "Vector",
    "check_fisher",
    "cotangents",
    "evaluating",
    "find_blocks",
    "inner",
    "layer_factors",
    "norm",
    "record",
]
