"""Elastic Weight Consolidation, with Fishers from per-example gradients."""

from __future__ import annotations

from typing import Any, Literal

import torch
from avalanche.core import SupervisedPlugin
from torch import Tensor

from ong.curvature import (
    EKFAC,
    Block,
    DiagonalPenalty,
    EKFACPenalty,
    FisherType,
    Unsupported,
    check_fisher,
    diagonal_fisher,
)
from ong.errors import UnknownNameError
from ong.plugins.boundaries import Boundaries, check_boundaries, identity_of, task_of, whole_task
from ong.plugins.examples import draw_examples, forward_of
from ong.plugins.model_blocks import Columns, blocks_of, check_columns, columns_of

__all__ = ["EWC"]


class EWC(SupervisedPlugin):  # type: ignore[misc]
    """loss ← loss + λ/2 Σ_t (θ − θ_t)ᵀF_t(θ − θ_t), θ_t and F_t the weights and the Fisher a finished task ended with.

    ============  =========================================  ==========================================
    penalty       mode="separate"                            mode="online"
    ============  =========================================  ==========================================
    ``diagonal``  Σ_t Σ_i F_t,ii(θ_i−θ_t,i)², one parabola   F ← decay·F + diag F_t, around the newest θ_t
    ``ekfac``     one EKFAC and one θ_t a task: cost grows   EKFACs merged data-free, around the newest θ_t
    ============  =========================================  ==========================================

    Fishers average squares of per-example gradients, labels drawn from the model or averaged over (``fisher``); a
    batch's mean gradient squared is another quantity. Nothing is guaranteed of a single step: it follows the gradient
    of the penalised loss, which old outputs and the new task's loss both feel. Rows that a head gains carry no penalty.

    Sources: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks", arXiv 1612.00796, Eq. 3
    (``separate``); Schwarz et al., "Progress & compress", arXiv 1805.06370, §3 (``online``); Ritter, Botev, Barber,
    "Online structured Laplace approximations", arXiv 1805.07810 (Kronecker-factored).

    Tasks are counted as by :class:`ong.plugins.GradientPlugin`, in online streams too.

    Attributes:
        penalties: what is kept: one parabola, or one EKFAC penalty a task (one in all when online).
    """

    def __init__(
        self,
        *,
        strength: float = 100.0,
        penalty: Literal["diagonal", "ekfac"] = "diagonal",
        mode: Literal["separate", "online"] = "separate",
        decay: float = 1.0,
        fisher: FisherType = "rademacher",
        fisher_examples: int = 1000,
        fisher_samples: int = 1,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose the penalty.

        Args:
            strength: λ ≥ 0; for losses and Fishers that are means over examples.
            penalty: ``diagonal`` or ``ekfac``.
            mode: keep every task's centre, or the newest one only.
            decay: factor in [0, 1] on the older tasks' Fisher at each new one; online only.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times smaller.
            fisher_examples: training examples of a finished task that its Fisher is taken from.
            fisher_samples: random draws an example for the random Fisher types.
            unsupported: ``"error"``, or ``"ignore"`` for layers of unknown type, which then carry no penalty.
            seed: the examples drawn and the random cotangents.

        Raises:
            ValueError: an unknown choice or a number out of range.
        """
        super().__init__()
        for what, value, choices in (
            ("penalty", penalty, ("diagonal", "ekfac")),
            ("mode", mode, ("separate", "online")),
            ("choice of unsupported", unsupported, ("error", "ignore")),
        ):
            if value not in choices:
                raise UnknownNameError(what, value, choices)
        check_fisher(fisher)
        if strength < 0:
            raise ValueError(f"strength must not be negative, got {strength}")
        if not 0 <= decay <= 1 or (decay != 1 and mode != "online"):
            raise ValueError(f"decay must be in [0, 1] and needs mode='online', got {decay} with mode='{mode}'")
        for what, count in (("fisher_examples", fisher_examples), ("fisher_samples", fisher_samples)):
            if count < 1:
                raise ValueError(f"{what} must be at least 1, got {count}")
        self.strength, self.penalty, self.mode, self.decay = strength, penalty, mode, decay
        self.fisher, self.fisher_examples, self.fisher_samples = fisher, fisher_examples, fisher_samples
        self.unsupported = unsupported
        self.tasks_seen: list[str] = []
        self.penalties: list[DiagonalPenalty | EKFACPenalty] = []
        self._generator = torch.Generator().manual_seed(seed)
        self._blocks: dict[str, Block] = {}
        self._columns: Columns = {}  # of the finished tasks' layers
        self._boundaries = Boundaries()
        self._active: list[DiagonalPenalty | EKFACPenalty] = []

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Find the model's blocks, which may have grown, and fit the penalties to them."""
        check_boundaries(self, strategy.experience)
        if not self._boundaries.begins(strategy.experience) and self._blocks:
            return
        self._blocks = blocks_of(strategy, self.unsupported)
        check_columns(self._columns, strategy.model, self._blocks)
        present = {name: block.values() for name, block in self._blocks.items()}
        self._active = [penalty.fitted(present) for penalty in self.penalties]

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the penalty to the loss."""
        if self._active and self.strength:
            weights = {name: _differentiable(block) for name, block in self._blocks.items()}
            total = torch.stack([penalty.value(weights) for penalty in self._active]).sum()
            strategy.loss = strategy.loss + self.strength * total

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Keep the Fisher and the weights of a task that was not seen before."""
        experience = strategy.experience
        if not self._boundaries.ends(experience):
            return
        identity = identity_of(task_of(experience))
        if identity not in self.tasks_seen:
            with whole_task(strategy):
                self._consolidate(strategy)
            self.tasks_seen.append(identity)
            self._columns |= columns_of(self._blocks)
        self._blocks = {}  # whatever is trained next is prepared anew

    def _consolidate(self, strategy: Any) -> None:
        self._blocks = blocks_of(strategy, self.unsupported)  # an evaluation during training may have grown the model
        weights = {name: block.values().clone() for name, block in self._blocks.items()}
        options: dict[str, Any] = {
            "fisher": self.fisher,
            "samples": self.fisher_samples,
            "generator": self._device_generator(strategy),
            "forward": lambda batch: forward_of(strategy, batch),
            "blocks": self._blocks,
        }
        batches = draw_examples(strategy, self.fisher_examples, self._generator)
        if self.penalty == "diagonal":
            fisher = diagonal_fisher(strategy.model, batches, **options)
            parabola = next((p for p in self.penalties if isinstance(p, DiagonalPenalty)), DiagonalPenalty())
            if self.mode == "online":
                parabola.replace(fisher, weights, self.decay)
            else:
                parabola.add(fisher, weights)
            self.penalties = [parabola]
        else:
            online = [p for p in self.penalties if isinstance(p, EKFACPenalty)] if self.mode == "online" else []
            merged = online[0].ekfac if online else EKFAC()
            merged.add(strategy.model, batches, decay=self.decay, **options)
            newest = EKFACPenalty(merged, {**online[0].centre, **weights} if online else weights)  # frozen layers stay
            self.penalties = [newest] if online else [*self.penalties, newest]

    def _device_generator(self, strategy: Any) -> torch.Generator:
        seed = int(torch.randint(2**62, (), generator=self._generator))
        return torch.Generator(strategy.device).manual_seed(seed)

    @property
    def memory_bytes(self) -> int:
        """Bytes kept from task to task."""
        return sum(penalty.bytes for penalty in self.penalties)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task, as tensors and plain values."""
        return {
            "tasks_seen": list(self.tasks_seen),
            "columns": dict(self._columns),
            "first_piece": self._boundaries.first,
            "generator": self._generator.get_state(),
            "penalties": [penalty.state_dict() for penalty in self.penalties],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        kind: type[DiagonalPenalty | EKFACPenalty] = DiagonalPenalty if self.penalty == "diagonal" else EKFACPenalty
        self.tasks_seen = list(state["tasks_seen"])
        self._columns, self._boundaries.first = dict(state["columns"]), state["first_piece"]
        self._generator.set_state(state["generator"])
        self.penalties = [kind.from_state_dict(penalty) for penalty in state["penalties"]]


def _differentiable(block: Block) -> Tensor:
    """Return a block's parameters as a matrix that the loss can be differentiated through."""
    return torch.cat([parameter.reshape(block.rows, -1) for parameter in block.parameters], dim=1)
