"""ong: continual learning with projected natural gradients, on Avalanche and PyTorch.

Names are imported when they are first touched, so that ``import ong`` does not wait for Avalanche.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PLUGINS = (
    "EWC",
    "FOPNG",
    "GPM",
    "NCL",
    "NGD",
    "OGD",
    "OGDPlus",
    "ONG",
    "ONGPrior",
    "ONGReplay",
    "ONGv1",
    "OWM",
    "SGP",
    "SI",
)
_HOMES = dict.fromkeys(_PLUGINS, "ong.plugins") | {
    "EKFAC": "ong.curvature",
    "NaturalGradient": "ong.natural.online",
    "AccuracyMatrix": "ong.metrics",
    "Certificate": "ong.plugins",
    "Diagnostics": "ong.plugins",
    "DirectionMemory": "ong.projection",
    "InMemoryLoader": "ong.streams",
    "coverage": "ong.methods.coverage",
    "Results": "ong.results",
    "load": "ong.results",
    "permuted_mnist": "ong.streams",
    "rotated_mnist": "ong.streams",
    "run": "ong.experiments.api",
    "split_mnist": "ong.streams",
}

_MODULES = {
    "deep_linear": "ong.natural.deep_linear",
    "fisher_variance": "ong.curvature.variance",
    "methods": "ong.methods",
}

__all__ = ["__version__", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    raise AttributeError(f"module 'ong' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
