"""The ways to train a deep linear network, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ong.errors import UnknownNameError
from ong.natural.deep_linear.network import DeepLinearNetwork
from ong.natural.deep_linear.newton import newton_step
from ong.natural.deep_linear.problem import LinearProblem
from ong.natural.deep_linear.steps import any_width_step, minimum_norm_step, paper_step

__all__ = ["STRATEGIES", "Strategy", "gradient_step", "strategy_of"]


class StepFunction(Protocol):
    """ΔW_i of rate 1 for a network and a problem."""

    def __call__(self, network: DeepLinearNetwork, problem: LinearProblem, *, damping: float = 0.0) -> list[Tensor]:
        """Return ΔW_i."""
        ...


@dataclass(frozen=True)
class Strategy:
    """A name, a line on it, its step, and which closed form of the natural gradient it is, if any."""

    name: str
    summary: str
    step: StepFunction
    form: str | None = None


def gradient_step(network: DeepLinearNetwork, problem: LinearProblem, *, damping: float = 0.0) -> list[Tensor]:
    """Return minus the gradient of the squared-error loss, −B_iᵀ E C A_iᵀ; α is then the usual learning rate.

    Args:
        network: the weights.
        problem: C and W*.
        damping: without effect; gradient descent inverts nothing.
    """
    return [-gradient for gradient in problem.squared_error_gradients(network)]


STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("sgd", "gradient descent on the squared error", gradient_step),
        Strategy("ngd-paper", "natural gradient, the paper's form (K-FAC over L)", paper_step, "paper"),
        Strategy("ngd-min-norm", "natural gradient of least norm, −F⁺∇", minimum_norm_step, "minimum-norm"),
        Strategy("ngd-any-width", "natural gradient, exact with bottlenecks too", any_width_step, "any-width"),
        Strategy("newton", "Newton's method with the full Hessian", newton_step),
    )
}


def strategy_of(name: str) -> Strategy:
    """Return a strategy by name.

    Raises:
        UnknownNameError: no such strategy.
    """
    if name not in STRATEGIES:
        raise UnknownNameError("strategy", name, STRATEGIES)
    return STRATEGIES[name]
