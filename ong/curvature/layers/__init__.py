"""Per-example gradients of each layer type, as factors; one file a family of layers, which fills the registry.

Layer types of other packages are registered from anywhere, see :func:`layer_factors`; a distribution names the module
that does it under the entry points ``ong.layers``.
"""

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
from ong.extensions import modules

__all__ = [
    "Call",
    "LayerFactors",
    "Layout",
    "UnsupportedLayerError",
    "factors_of_call",
    "layer_factors",
    "layer_layouts",
    "layouts_of",
    "register_loaded",
]

modules(__name__)
