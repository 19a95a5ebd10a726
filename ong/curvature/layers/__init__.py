"""Per-example gradients of each layer type, as factors; one file a family of layers."""

from ong.curvature.layers import attention, convolution, embedding, linear, normalisation  # they fill the registry
from ong.curvature.layers.linear import register_loaded
from ong.curvature.layers.registry import (
    Call,
    LayerFactors,
    Layout,
    UnsupportedLayerError,
    factors_of_call,
    layer_factors,
    layer_layouts,
    layouts_of,
)

__all__ = [
    "Call",
    "LayerFactors",
    "Layout",
    "UnsupportedLayerError",
    "attention",
    "convolution",
    "embedding",
    "factors_of_call",
    "layer_factors",
    "layer_layouts",
    "layouts_of",
    "linear",
    "normalisation",
    "register_loaded",
]
