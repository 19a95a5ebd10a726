"""Fisher-Orthogonal Projected Natural Gradient."""

from __future__ import annotations

from typing import Any

import torch

from ong.curvature import EKFAC, FisherType, Vector, inner
from ong.errors import UserError
from ong.methods.data import Examples
from ong.methods.directional import DirectionMethod, Storage
from ong.methods.fishers import FisherOptions
from ong.methods.ngd import CurrentMetric
from ong.methods.room import Needs, Shapes
from ong.methods.statistics import BatchNorm
from ong.projection import DirectionKind, DirectionMemory, GramSolver, ImageRows, Recent

__all__ = ["FOPNG"]


class FOPNG(DirectionMethod):
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
    where it takes a running mean; F_c is taken every ``refresh_every`` steps (there at the start of each epoch) and
    damped: (F_c + λ)⁻¹. λ multiplies v, so that ``lr`` means what it means to SGD, which trains the first task here
    (Adam does in the paper). The inverse of HᵀF_c⁻¹H is cut at 1e-6 of its largest eigenvalue; the code adds μI,
    ``gram_damping``. A step costs two products with the factored memory; a refresh an EKFAC, M directions multiplied
    out through F_p and F_c⁻¹, and M²·p multiplications for p parameters.

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
        fisher: FisherType = "logit",
        examples_per_task: int = 1000,
        samples: int = 1,
        rank: int | None = 100,
        refresh_every: int = 250,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        storage: Storage = "full",
        batch_norm: BatchNorm = "update",
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
            examples_per_task: training examples that F_c, and a finished task's part of F_p, are taken from.
            samples: random draws an example for the random Fisher types.
            rank: leading columns of each layer's inputs that keep eigenvalues of their own; None keeps all.
            refresh_every: steps between refreshes of F_c.
            directions: kind of direction, see :func:`ong.projection.collect_directions`.
            directions_per_task: examples of a finished task whose directions are stored.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise (neither their Gram nor the EKFAC counted).
            storage: ``"full"``, or ``"half"`` for directions rounded to 11 bits and kept in float16, see
                :class:`ong.methods.directional.DirectionMethod`.
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: the examples drawn and the random cotangents.

        Raises:
            UserError: an unknown choice or a number out of range.
        """
        super().__init__(
            directions=directions,
            directions_per_task=directions_per_task,
            max_directions=max_directions,
            max_bytes=max_bytes,
            storage=storage,
            batch_norm=batch_norm,
            seed=seed,
        )
        if not gram_damping >= 0:
            raise UserError(f"gram_damping must be at least 0, got {gram_damping}")
        self.corrected, self.trust_region, self.gram_damping = corrected, trust_region, gram_damping
        self.is_linear = not trust_region
        options = FisherOptions(fisher, examples_per_task, samples, rank)
        self.current = CurrentMetric(options, damping, refresh_every)
        self.ekfac = options.empty()
        self._images = DirectionMemory()
        self._solvers: Recent[GramSolver] = Recent()  # by the blocks that move
        self._solved: EKFAC | None = None  # the F_c that they are of

    @property
    def damping(self) -> float:
        """λ."""
        return self.current.damping

    def _projector(self) -> None:
        images = {
            name: ImageRows(rows, self.ekfac.block_like(name, self.blocks[name]), None)
            for name, rows in self.memory.rows.items()
            if name in self.blocks
        }
        self._images = DirectionMemory(images) if len(self.memory) else DirectionMemory()

    def _begin(self, examples: Examples) -> None:
        super()._begin(examples)
        self._solvers, self._solved = Recent(), None
        self.current.begin(self, examples)

    def _before_step(self) -> None:
        if not self.is_idle:
            self.current.before_step(self)

    @property
    def is_idle(self) -> bool:
        """Whether no task is finished."""
        return not len(self._images)

    def _solver(self, names: frozenset[str]) -> tuple[DirectionMemory, GramSolver]:
        if self._solved is not self.current.ekfac:
            self._solvers, self._solved = Recent(), self.current.ekfac
        images = self._images.restricted(names)

        def make() -> GramSolver:
            assert self.current.metric is not None
            gram = images.gram_in(self.current.metric)  # λHᵀF_c⁻¹H
            gram.diagonal().add_(self.damping * self.gram_damping)
            return GramSolver(gram)

        return images, self._solvers.get(names, make)

    def project(self, vector: Vector) -> Vector:
        """Return λF_c⁻¹Pv; linear but for ``trust_region``."""
        precondition = self.current.precondition  # λ(F_c+λ)⁻¹; its λ counts in the published P alone
        shadow: Vector = {}
        moving = frozenset(self._images.rows.keys() & vector.keys())
        if moving:
            images, solver = self._solver(moving)
            right = images.dot(precondition(vector) if self.corrected else vector)
            shadow = images.combine(solver.solve(right) * (1.0 if self.corrected else self.damping))
        projected = {name: part - shadow[name] if name in shadow else part for name, part in vector.items()}
        update = precondition(projected)
        if self.trust_region:
            length = (inner(projected, update) / self.damping).clamp_min(0).sqrt() * self.damping
            length = torch.where(length > 0, length, torch.ones_like(length))
            update = {name: part / length for name, part in update.items()}
        return update

    def _end(self, examples: Examples) -> None:
        self._remember(examples)
        self.current.options.add_to(self.ekfac, self, examples)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        current, past = self.current.needs(shapes).training, shapes.ekfac(self.current.options.rank)
        return super()._needs(shapes, examples).plus(kept=past, training=current, ending=current)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        return super()._sizes(shapes) | self.current.options.sizes(shapes.blocks)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions and of the finished tasks' EKFAC."""
        return super().memory_bytes + self.ekfac.bytes

    @property
    def solver(self) -> GramSolver | None:
        """(HᵀF_c⁻¹H + μI)⁺ as worked out last."""
        return self._solvers.last

    def _state(self) -> dict[str, Any]:
        return super()._state() | {"current": self.current.state(self), "ekfac": self.ekfac.state_dict()}

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.current.load(state["current"])
        self.ekfac = self.current.options.empty()
        self.ekfac.load_state_dict(state["ekfac"])
        self._images = DirectionMemory()
