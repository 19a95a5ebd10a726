"""Fisher-Orthogonal Projected Natural Gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ong.curvature import EKFAC, FisherType, Metric, Unsupported, Vector, check_fisher, inner
from ong.plugins.directions import DirectionPlugin
from ong.plugins.examples import draw_examples, forward_of
from ong.projection import DenseRows, DirectionKind, DirectionMemory, FactoredRows, GramSolver, NaturalRows

__all__ = ["FOPNG"]

_CHUNK = 2**25  # numbers of one [directions, rows, columns] intermediate


class FOPNG(DirectionPlugin):
    """v = F_c⁻¹Pg with a P meant to make the step F_p-orthogonal to the stored gradients G.

    F_c is the current task's Fisher, F_p that of the finished ones, G their gradients, H = F_pG. As published,

        P = I − H (HᵀF_c⁻¹H)⁻¹ Hᵀ.

    The problem it is derived from, argmin_v −gᵀv + ½ vᵀF_c v subject to GᵀF_p v = 0, has another solution: the
    stationary point v = F_c⁻¹(g − Hc) meets the constraint Hᵀv = 0 for c = (HᵀF_c⁻¹H)⁻¹HᵀF_c⁻¹g, that is

        P = I − H (HᵀF_c⁻¹H)⁻¹ HᵀF_c⁻¹        (``corrected=True``).

    ==========================  =========  =========
    what holds                  published  corrected
    ==========================  =========  =========
    P² = P                      no         yes
    Hᵀv = GᵀF_p v = 0           no         yes
    gᵀv ≥ 0                     no         yes
    Gᵀv = 0, old outputs still  no         no
    P the same if F_c doubles   no         yes
    ==========================  =========  =========

    The last row says why the published step works at all: where F_c < 1 it hardly projects. GᵀF_p v = 0 is not
    Gᵀv = 0, so even the corrected step moves the stored outputs at first order.

    Both Fishers are EKFACs where the paper uses diagonals (its code squares batch-mean gradients), summed over tasks
    where it takes a running mean; F_c is taken at the start of each epoch, as there, and damped: (F_c + λ)⁻¹. λ
    multiplies v, so that ``lr`` means what it means to SGD, which trains the first task here (Adam does in the paper).
    The inverse of HᵀF_c⁻¹H is cut at 1e-6 of its largest eigenvalue; the code adds μI, ``gram_damping``. A step costs
    two products with the factored memory; an epoch's start M²·p multiplications for M directions and p parameters.

    Source: Garg, Kolhe, Peng, Gopalam, "Fisher-orthogonal projected natural gradient descent for continual learning",
    arXiv 2601.12816; the authors' code, ishirgarg/FOPNG, ``optimizers.py``.

    Attributes:
        memory: G.
        ekfac: F_p.
    """

    def __init__(
        self,
        *,
        corrected: bool = False,
        trust_region: bool = False,
        damping: float = 0.1,
        gram_damping: float = 0.0,
        fisher: FisherType = "empirical",
        fisher_examples: int = 1000,
        fisher_samples: int = 1,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose the version.

        Args:
            corrected: solve the constrained problem instead of following the publication.
            trust_region: divide v by √(gᵀPᵀF_c⁻¹Pg), as the paper does: steps of one length, set by ``lr`` alone.
            damping: λ > 0, in units of the Fisher's eigenvalues.
            gram_damping: μ ≥ 0 in (HᵀF_c⁻¹H + μI)⁻¹; above 0 the projection is partial, and P² = P and Hᵀv = 0 hold
                for no version.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; the paper's is ``empirical``.
            fisher_examples: training examples that F_c, and a finished task's part of F_p, are taken from.
            fisher_samples: random draws an example for the random Fisher types.
            directions: kind of direction, see :func:`ong.projection.collect_directions`.
            directions_per_task: examples of a finished task whose directions are stored.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise (neither their Gram nor the EKFAC counted).
            unsupported: ``"error"`` or ``"ignore"`` for layers of unknown type.
            seed: the examples drawn and the random cotangents.

        Raises:
            ValueError: an unknown choice or a number out of range.
        """
        super().__init__(
            directions=directions,
            directions_per_task=directions_per_task,
            max_directions=max_directions,
            max_bytes=max_bytes,
            unsupported=unsupported,
            seed=seed,
        )
        check_fisher(fisher)
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        if not gram_damping >= 0:
            raise ValueError(f"gram_damping must be at least 0, got {gram_damping}")
        for what, count in (("fisher_examples", fisher_examples), ("fisher_samples", fisher_samples)):
            if count < 1:
                raise ValueError(f"{what} must be at least 1, got {count}")
        self.corrected, self.trust_region = corrected, trust_region
        self.damping, self.gram_damping = damping, gram_damping
        self.fisher, self.fisher_examples, self.fisher_samples = fisher, fisher_examples, fisher_samples
        self.ekfac = EKFAC()
        self._images: dict[str, NaturalRows] = {}
        self._metric: Metric | None = None
        self._solvers: dict[frozenset[str], GramSolver] = {}  # by the blocks that move

    def _prepare(self, strategy: Any) -> None:
        super()._prepare(strategy)
        self._metric = None
        self._images, self._solvers = {}, {}
        if len(self.memory):
            past = Metric(self.ekfac, self._blocks, self.damping)
            for name, rows in self.memory.rotated(past).rows.items():
                assert isinstance(rows, FactoredRows | DenseRows)
                times_curvature = replace(past.blocks[name], scale=past.blocks[name].eigenvalues)
                self._images[name] = NaturalRows(rows, times_curvature)

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Take F_c at the present weights."""
        if len(self.memory):
            self._metric = Metric(self._fit(strategy, EKFAC()), self._blocks, self.damping)
            self._solvers = {}

    def _solver(self, images: dict[str, NaturalRows], metric: Metric) -> GramSolver:
        names = frozenset(images)
        if names not in self._solvers:
            gram = gram_of_images(images, metric)  # λHᵀF_c⁻¹H
            gram.diagonal().add_(self.damping * self.gram_damping)
            self._solvers[names] = GramSolver(gram)
        return self._solvers[names]

    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        if self._metric is None:
            return None
        gradient = self._moving(gradient)
        moving = {name: rows for name, rows in self._images.items() if name in gradient}
        metric = self._metric  # its M⁻¹ is λ(F_c+λ)⁻¹, which the published P feels and the corrected one does not
        shadow: Vector = {}
        if moving:
            solver, images = self._solver(moving, metric), DirectionMemory(moving)
            right = images.dot(metric.precondition(gradient) if self.corrected else gradient)
            shadow = images.combine(solver.solve(right) * (1.0 if self.corrected else self.damping))
        projected = {name: part - shadow[name] if name in shadow else part for name, part in gradient.items()}
        update = metric.precondition(projected)
        if self.trust_region:
            length = (inner(projected, update) / self.damping).clamp_min(0).sqrt() * self.damping
            update = {name: part / length if length > 0 else part for name, part in update.items()}
        return update

    def _fit(self, strategy: Any, ekfac: EKFAC) -> EKFAC:
        """Return an EKFAC with the Fisher of the current task's examples added."""
        ekfac.add(
            strategy.model,
            draw_examples(strategy, self.fisher_examples, self._generator),
            fisher=self.fisher,
            samples=self.fisher_samples,
            generator=self._device_generator(strategy),
            forward=lambda batch: forward_of(strategy, batch),
            blocks=self._blocks,
        )
        return ekfac

    def _consolidate(self, strategy: Any) -> None:
        self._remember(strategy)
        self._fit(strategy, self.ekfac)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions and of the finished tasks' EKFAC."""
        tensors = [value for block in self.ekfac.blocks.values() for value in vars(block).values()]
        kept = (t for t in tensors if isinstance(t, Tensor))
        return self.memory.bytes + sum(t.numel() * t.element_size() for t in kept)

    def statistics(self) -> dict[str, float]:
        """Return numbers about the memory, and the rank and condition of the HᵀF_c⁻¹H, damped, worked out last."""
        last = list(self._solvers.values())[-1:]
        return super().statistics() | {k: v for s in last for k, v in (("rank", s.rank), ("condition", s.condition))}

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task."""
        return super().state_dict() | {"ekfac": self.ekfac.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.ekfac = EKFAC()
        self.ekfac.load_state_dict(state["ekfac"])


def gram_of_images(images: dict[str, NaturalRows], metric: Metric) -> Tensor:
    """Return HᵀM⁻¹H, ``[M, M]`` float64, for H given as rows: each once turned into M's basis, then one product."""
    total = torch.zeros(0, 0, dtype=torch.float64)
    for name, rows in images.items():
        block, past = metric.blocks[name], rows.metric
        turns = (past.outputs_basis.T @ block.outputs_basis, past.inputs_basis.T @ block.inputs_basis)
        root = block.scale.sqrt()
        if not len(total):
            total = root.new_zeros(len(rows), len(rows), dtype=torch.float64)
        step = max(1, _CHUNK // root.numel())
        indices = torch.arange(len(rows), device=root.device)
        chunks = [indices[start : start + step] for start in range(0, len(rows), step)]
        for place, left in enumerate(chunks):
            first = _whitened(rows, left, turns, root)
            for right in chunks[: place + 1]:
                second = first if right is left else _whitened(rows, right, turns, root)
                product = (first @ second.T).double()
                total[left[0] : left[-1] + 1, right[0] : right[-1] + 1] += product
                if right is not left:
                    total[right[0] : right[-1] + 1, left[0] : left[-1] + 1] += product.T
    return (total + total.T) / 2


def _whitened(rows: NaturalRows, indices: Tensor, turns: tuple[Tensor, Tensor], root: Tensor) -> Tensor:
    """Return M^{-½}h of some of the rows h, flattened, in M's basis."""
    turned = turns[0].T @ (rows.metric.scale * rows.rotated.dense(indices)) @ turns[1]
    return (root * turned).flatten(1)
