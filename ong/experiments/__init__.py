"""From recipes to runs to records."""

from ong.experiments.api import run

__all__ = ["run"]
