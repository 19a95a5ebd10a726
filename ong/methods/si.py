"""Synaptic intelligence."""

from __future__ import annotations

from typing import Any

import torch

from ong.curvature import Vector
from ong.curvature.penalties import grown, padded
from ong.errors import UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.room import Needs, Shapes

__all__ = ["SI"]


class SI(Method):
    """g + 2·strength · Ω ∘ (θ − θ̃), the gradient of loss + strength · Σ_i Ω_i(θ_i − θ̃_i)².

    θ̃ are the weights after the last task. With δθ the steps that were really taken, Δ_i a weight's way in a task and g
    the gradient of the task's own loss,

        Ω_i = Σ_tasks max(0, ω_i)/(Δ_i² + ξ),    ω_i = −Σ_steps g_i δθ_i,

    the share of the loss's decrease that a weight has. Nothing is guaranteed of a single step but descent of the
    penalised loss. A step costs O(parameters), and the step's displacement is read after it.

    Source: Zenke, Poole, Ganguli, "Continual learning through synaptic intelligence", arXiv 1703.04200, Eqs. 3 to 5;
    negative ω count as 0, as in the authors' code.

    Attributes:
        importance: Ω of each block.
        weights: θ̃.
    """

    follows_steps = True
    adds_to_gradients = True

    def __init__(self, *, strength: float = 0.1, damping: float = 0.1, seed: int = 0) -> None:
        """Choose the strength.

        Args:
            strength: at least 0 (c in the paper).
            damping: ξ > 0, in units of squared weights.
            seed: of nothing; all methods have one.

        Raises:
            UserError: a number out of range.
        """
        super().__init__(seed=seed)
        if not strength >= 0:
            raise UserError(f"strength must not be negative, got {strength}")
        if not damping > 0:
            raise UserError(f"damping must be positive, got {damping}")
        self.strength, self.damping = strength, damping
        self.importance: Vector = {}
        self.weights: Vector = {}
        self._path: Vector = {}  # ω of the present task
        self._start: Vector = {}  # its first weights
        self._gradient: Vector = {}
        self._centre: Vector = {}
        self._pull: Vector = {}

    def _begin(self, examples: Examples) -> None:
        values = {name: block.values() for name, block in self.blocks.items()}
        if not (self._resumes or self._again) or not self._path:
            self._path = {name: torch.zeros_like(value) for name, value in values.items()}
            self._start = values
        self._centre = {name: padded(self.weights.get(name), value) for name, value in values.items()}
        self._pull = {
            name: 2 * self.strength * grown(self.importance[name], value.shape)
            for name, value in values.items()
            if name in self.importance
        }

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        vector = shapes.parameters  # Ω and θ̃; ω, the first weights and the pull
        return Needs(2 * vector, 3 * vector + shapes.steps, 3 * vector)

    def force(self, gradient: Vector) -> Vector:
        """Return the gradient of the penalised loss."""
        self._gradient = gradient
        return {
            name: part + self._pull[name] * (self.blocks[name].values() - self._centre[name])
            if name in self._pull
            else part
            for name, part in gradient.items()
        }

    def after_step(self, displacement: Vector) -> None:
        """Add g ∘ (θ_before − θ_after) to ω: 0 for a weight that stayed, as all do where g overflowed."""
        for name, part in self._gradient.items():
            if name in displacement:
                moved = displacement[name]
                self._path[name] += torch.where(moved != 0, part * moved, 0.0)
        self._gradient = {}

    def _end(self, examples: Examples) -> None:
        for name, block in self.blocks.items():
            now = block.values()
            if name in self._path:
                path, start = grown(self._path[name], now.shape), padded(self._start[name], now)
                found = path.clamp_min(0) / ((now - start).square() + self.damping)
                old = self.importance.get(name)
                self.importance[name] = found if old is None else found + grown(old, now.shape)
            self.weights[name] = now.clone()
        self._path, self._start = {}, {}

    @property
    def memory_bytes(self) -> int:
        """Bytes of Ω and θ̃."""
        return sum(t.numel() * t.element_size() for t in [*self.importance.values(), *self.weights.values()])

    def _state(self) -> dict[str, Any]:
        return super()._state() | {
            "importance": dict(self.importance),
            "weights": dict(self.weights),
            "path": {name: part.clone() for name, part in self._path.items()},
            "start": dict(self._start),
        }

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.importance, self.weights = dict(state["importance"]), dict(state["weights"])
        self._path = {name: part.clone() for name, part in state["path"].items()}
        self._start = dict(state["start"])
