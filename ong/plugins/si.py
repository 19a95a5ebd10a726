"""Synaptic intelligence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from avalanche.training.plugins import SynapticIntelligencePlugin

__all__ = ["SI"]


class SI(SynapticIntelligencePlugin):  # type: ignore[misc]
    """loss ← loss + λ/2 Σ_i Ω_i (θ_i − θ̃_i)², Avalanche's plugin with weights that are remembered, not looked at.

    With θ̃ the weights after the last task, Δ_t a weight's way in task t and the sums over its steps

        Ω_i = Σ_t ω_t,i / (Δ_t,i² + ξ),    ω_t,i = −Σ_steps g_i δθ_i,   cut at .001 from above,

    the share of the loss's decrease that a weight has. On a CPU Avalanche 0.6 keeps views of the weights where it means
    to keep what they were before a step, so that δθ and Ω are 0 and it trains as without the plugin.

    Source: Zenke, Poole, Ganguli, "Continual learning through synaptic intelligence", arXiv 1703.04200, Eqs. 3 to 5.
    """

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Remember θ̃."""
        super().before_training_exp(strategy, **kwargs)
        _keep(self.ewc_data[0])

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Remember the weights before the step."""
        super().before_training_iteration(strategy, **kwargs)
        _keep(self.syn_data["old_theta"])


def _keep(weights: Mapping[str, Any]) -> None:
    for part in weights.values():
        part.data = part.data.clone()
