"""ong: continual learning with projected natural gradients, on Avalanche and PyTorch.

Names are imported when they are first touched, so that ``import ong`` does not wait for Avalanche. Every method of
:mod:`ong.methods` is here as an Avalanche plugin: ``ong.OGD``.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "EKFAC": "ong.curvature",
    "NaturalGradient": "ong.natural.online",
    "AccuracyMatrix": "ong.metrics",
    "Certificate": "ong.plugins",
    "Diagnostic": "ong.plugins",
    "Diagnostics": "ong.plugins",
    "DirectionMemory": "ong.projection",
    "InMemoryLoader": "ong.streams",
    "coverage": "ong.methods.coverage",
    "Results": "ong.report.results",
    "load": "ong.report.results",
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


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _MODULES:
        return import_module(_MODULES[name])
    if name == "__all__":
        return __dir__()
    if name[:1].isupper() and hasattr(import_module("ong.methods"), name):  # which does not wait for Avalanche
        return getattr(import_module("ong.plugins"), name)
    raise AttributeError(f"module 'ong' has no attribute '{name}'", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    methods: list[str] = list(import_module("ong.methods").METHODS)
    return sorted(["__version__", *_HOMES, *_MODULES, *methods])
