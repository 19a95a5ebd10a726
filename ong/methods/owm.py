"""Orthogonal Weights Modification."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ong.curvature import Vector, affine_blocks, double, input_covariances
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import check_positive
from ong.methods.room import Needs, Shapes, widest_inputs

__all__ = ["OWM", "owm_projector"]


def owm_projector(inputs_cov: Tensor, alpha: float) -> Tensor:
    """Return P = (I + A/α)⁻¹ of a symmetric ``[columns, columns]`` matrix, in its dtype."""
    identity = torch.eye(len(inputs_cov), dtype=inputs_cov.dtype, device=inputs_cov.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(identity + inputs_cov / alpha))


class OWM(Method):
    """v_l = g_l P_l, P_l = (I + A_l/α)⁻¹, A_l the covariance of the layer's past inputs, summed over tasks.

    Directions a layer's inputs never had keep P = 1, those with variance σ² per task shrink by α/(α+σ²). Guarantees
    gᵀv ≥ 0 (P is positive definite). Old outputs move at first order, the less the smaller α: no exact Gᵀv = 0.

    The paper writes P = I − X(XᵀX + αI)⁻¹Xᵀ with past inputs in the columns of X, which is (I + XXᵀ/α)⁻¹, and
    builds it by recursive least squares, one column x at a time from P = I:

        k = P x/(α + xᵀP x),   P ← P − k xᵀP.

    With x = a/√n over a task's n examples the recursion ends at the P_l above (tested). The paper feeds it the mean
    input of each minibatch instead, whose covariance is a few directions only; here all drawn examples count, and P
    is fixed within a task. A bias is one more input that is always 1.

    It is NCL without pull and with the identity in place of the outputs' factor. A step costs one product with a
    ``[columns, columns]`` matrix a layer.

    Source: Zeng, Chen, Cui, Yu, "Continual learning of context-dependent processing in neural networks", Nature
    Machine Intelligence 1 (2019), arXiv 1810.01256, Methods.

    Attributes:
        inputs_cov: A of each layer, ``[columns, columns]``.
    """

    def __init__(self, *, alpha: float = 1.0, examples_per_task: int = 1000, seed: int = 0) -> None:
        """Choose the strength.

        Args:
            alpha: α > 0, in units of the inputs' variance.
            examples_per_task: training examples drawn from each finished task.
            seed: which examples are drawn.

        Raises:
            UserError: a number out of range.
        """
        super().__init__(seed=seed)
        if not alpha > 0:
            raise UserError(f"alpha must be positive, got {alpha}")
        check_positive(examples_per_task=examples_per_task)
        self.alpha, self.examples_per_task = alpha, examples_per_task
        self.inputs_cov: dict[str, Tensor] = {}
        self._projectors: dict[str, Tensor] = {}

    def _begin(self, examples: Examples) -> None:
        affine_blocks(self.blocks, warn=True)
        self._projectors = {}
        for name in self.inputs_cov.keys() & self.blocks.keys():  # frozen layers wait
            covariance, values = self.inputs_cov[name], self.blocks[name].values()
            more = values.shape[1] - len(covariance)
            self._projectors[name] = owm_projector(F.pad(double(covariance), (0, more, 0, more)), self.alpha).to(values)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        widths = [block.shape[1] for block in affine_blocks(self.blocks).values()]
        kept = sum(shapes.size * width**2 for width in widths)
        sums, widest = 8 * sum(width**2 for width in widths), 8 * max(widths) ** 2
        seen = shapes.passing(self.examples_per_task)
        return Needs(kept, kept + 3 * widest + shapes.steps, sums + 2 * widest + seen, widest_inputs(widths))

    @property
    def is_idle(self) -> bool:
        """Whether no task is finished."""
        return not self._projectors

    def project(self, vector: Vector) -> Vector:
        """Return v_l P_l of each layer; whatever is no layer stays."""
        projectors = self._projectors
        return {name: part @ projectors[name] if name in projectors else part for name, part in vector.items()}

    def _end(self, examples: Examples) -> None:
        found = input_covariances(
            self.model, self._draw(examples, self.examples_per_task), affine_blocks(self.blocks), forward=self.forward
        )
        for name, covariance in found.items():
            old = self.inputs_cov.get(name)
            if old is not None:
                more = len(covariance) - len(old)
                covariance = covariance + F.pad(double(old), (0, more, 0, more))
            self.inputs_cov[name] = covariance.to(self.blocks[name].values())

    @property
    def memory_bytes(self) -> int:
        """Bytes of the covariances."""
        return sum(t.numel() * t.element_size() for t in self.inputs_cov.values())

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"inputs_cov": dict(self.inputs_cov)}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.inputs_cov = dict(state["inputs_cov"])
