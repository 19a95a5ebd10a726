"""Orthogonal Natural Gradient: the published versions and the one that works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from avalanche.benchmarks import OnlineCLExperience
from torch import Tensor

from ong.curvature import (
    EKFAC,
    FisherType,
    Metric,
    Unsupported,
    Vector,
    check_fisher,
)
from ong.errors import UnknownNameError
from ong.plugins.anchor import Anchor
from ong.plugins.directions import DirectionPlugin
from ong.plugins.eigenbasis import why_not
from ong.plugins.examples import draw_examples, forward_of
from ong.plugins.inputs import block_of_inputs, reader_of_inputs
from ong.plugins.task_in_metric import TaskInMetric
from ong.plugins.training_fisher import TrainingFisher
from ong.projection import (
    DirectionKind,
    EuclideanProjection,
    FactoredRows,
    MetricProjection,
    Rows,
    kept_dense,
    natural_rows,
)
from ong.streams.avalanche_tensors import in_memory_columns

__all__ = ["ONG"]

_MOST_INPUTS = 10_000  # of a task that A of its first layer is taken from


class ONG(DirectionPlugin):
    """Natural gradient and orthogonal projection, in every combination the papers and this project use.

    With g the loss gradient, G the stored gradients, M = I + F/λ and F the EKFAC of the current task or of the finished
    ones, v is what is subtracted:

    ==========  ========  ==========  ===========  =======================================
    preset      metric    memory      projection   v
    ==========  ========  ==========  ===========  =======================================
    ngd         current   –           none         M⁻¹g
    ong-v1      current   gradients   euclidean    (I − G(GᵀG)⁺Gᵀ) M⁻¹g
    ong (v3)    current   natural     euclidean    (I − QQᵀ) M⁻¹g, Q = orth[M_k⁻¹g_k]
    ong-prior   prior     gradients   metric       M⁻¹(g − G(GᵀM⁻¹G)⁺GᵀM⁻¹g)
    ==========  ========  ==========  ===========  =======================================

    Only ``ong-prior`` has both Gᵀv = 0 (old outputs still to first order) and gᵀv ≥ 0 (descent): it is the steepest
    descent, in the metric of what has been learned, among the steps that leave the stored outputs alone.

    Sources: Yadav, Mendoza, Korrapati, "Orthogonal Natural Gradient", arXiv 2508.17169 v1 (``ong-v1``) and v3
    (``ong``); the prior metric follows Kao et al., arXiv 2106.08085; ``ong-prior`` is this project's, docs/methods.md.

    Attributes:
        memory: G, or the natural gradients in its place.
        ekfac: F of the finished tasks (``metric="prior"``) or of the current one.
    """

    def __init__(
        self,
        *,
        metric: Literal["current", "prior"] = "prior",
        memory: Literal["gradients", "natural"] = "gradients",
        projection: Literal["none", "euclidean", "metric"] = "metric",
        damping: float = 0.1,
        fisher: FisherType = "logit",
        fisher_examples: int = 1000,
        fisher_samples: int = 1,
        directions: DirectionKind = "gtl",
        directions_per_task: int = 100,
        max_directions: int | None = None,
        max_bytes: int | None = None,
        scale_tolerance: float = 0.05,
        refresh_every: int = 50,
        running: bool = False,
        pull: float = 0.0,
        eigenbasis: bool = True,
        unsupported: Unsupported = "error",
        seed: int = 0,
    ) -> None:
        """Choose the version.

        Args:
            metric: whose Fisher preconditions: the current task's, or the sum over finished tasks.
            memory: what is projected off: gradients, or natural gradients in the metric of the task that left them.
            projection: ``none``, orthogonal in the ``euclidean`` sense, or orthogonal in the ``metric``.
            damping: λ > 0, in units of the Fisher's eigenvalues.
            fisher: Fisher type, see :func:`ong.curvature.cotangents`; ``logit`` wants a λ about 100 times that of
                the others.
            fisher_examples: training examples of a task that its EKFAC is taken from, but for A of a ``Linear`` layer
                that reads the inputs: the current task's is of all inputs, 10,000 at most, where they lie in memory.
            fisher_samples: random draws an example for the random Fisher types.
            directions: kind of direction, see :func:`ong.projection.collect_directions`.
            directions_per_task: examples of a finished task whose directions are stored.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions kept, likewise (neither their Gram nor the EKFAC counted).
            scale_tolerance: root mean square relative error that M⁻¹ may have, entry by entry in its eigenbasis, to be
                a sum of few products there; then steps with many directions and their Gram cost a fraction, and the
                projection is exact in the metric so obtained. 0 keeps λ(F+λ)⁻¹ as it is; so do projections other than
                in the metric, a pull, and convolutions. See :func:`ong.curvature.separable.separable`.
            refresh_every: steps between refreshes of the current task's EKFAC; that A and its basis stay.
            running: take the current task's EKFAC from training's own passes, see :class:`ong.curvature.RunningEKFAC`:
                the empirical Fisher of the last ``fisher_examples`` examples, leading eigenpairs every
                ``refresh_every`` steps from those before, eigenvalues every step. Layers that mix the examples of a
                batch (``BatchNorm`` in training) cannot be part of it.
            pull: γ ≥ 0; g + γ F(θ − μ) takes the place of g, μ the weights after the last task (``prior`` only).
            eigenbasis: hold the weights of ``Linear`` layers in the metric's eigenbasis while a task is trained: the
                same up to round-off, and faster. Done only where nothing else works on the weights in between, see
                :attr:`plain_because`; a loss that reads the weights itself (a penalty in the criterion) is not seen,
                and wants False.
            unsupported: ``"error"`` or ``"ignore"`` for layers of unknown type.
            seed: the examples drawn and the random cotangents.

        Raises:
            ValueError: an unknown choice, a number out of range, or a combination that has no meaning.
        """
        super().__init__(
            directions=directions,
            directions_per_task=directions_per_task,
            max_directions=max_directions,
            max_bytes=max_bytes,
            unsupported=unsupported,
            seed=seed,
        )
        for what, value, choices in (
            ("metric", metric, ("current", "prior")),
            ("memory", memory, ("gradients", "natural")),
            ("projection", projection, ("none", "euclidean", "metric")),
        ):
            if value not in choices:
                raise UnknownNameError(what, value, choices)
        check_fisher(fisher)
        if not damping > 0:
            raise ValueError(f"damping must be positive, got {damping}")
        for what, count in (
            ("fisher_examples", fisher_examples),
            ("fisher_samples", fisher_samples),
            ("refresh_every", refresh_every),
        ):
            if count < 1:
                raise ValueError(f"{what} must be at least 1, got {count}")
        if not scale_tolerance >= 0:
            raise ValueError(f"scale_tolerance must be at least 0, got {scale_tolerance}")
        if pull < 0 or (pull and metric != "prior"):
            raise ValueError(f"pull must be at least 0 and needs metric='prior', got {pull} with metric='{metric}'")
        if running and (metric != "current" or fisher != "empirical" or projection == "metric"):
            raise ValueError(
                "running=True is an empirical Fisher of the current task: it needs metric='current', "
                f"fisher='empirical' and no projection in the metric, got '{metric}', '{fisher}', '{projection}'"
            )
        if memory == "natural" and projection == "metric":
            raise ValueError("memory='natural' goes with projection='euclidean': its rows are tangent vectors already")
        self.metric, self.projection, self.fisher = metric, projection, fisher
        self.natural = memory == "natural"
        self.damping, self.pull = damping, pull
        self.scale_tolerance = scale_tolerance
        self.fisher_examples, self.fisher_samples = fisher_examples, fisher_samples
        self.refresh_every, self.running = refresh_every, running
        self.eigenbasis = eigenbasis
        self.ekfac = EKFAC()
        self._task = TaskInMetric({}, None, None)
        self._anchor = Anchor()
        self._running: TrainingFisher | None = None
        self._running_state: dict[str, Any] | None = None

    @property
    def plain_because(self) -> str | None:
        """Why the task in training is trained in the original coordinates, None where it is not."""
        return self._task.plain_because

    def _prepare(self, strategy: Any) -> None:
        super()._prepare(strategy)
        self._task.close()  # one that was interrupted
        plain = self._why_plain(strategy)
        fits = self.metric == "current" and not self.running
        reader = reader_of_inputs(strategy, self._blocks) if fits or plain is None else None
        self._task = TaskInMetric(self._blocks, reader, plain)
        self._anchor.begin()
        if self._running is not None:
            self._running.close()
        self._projection = None
        if self.projection == "euclidean" and len(self.memory):
            self._projection = EuclideanProjection(self.memory)
        if self.running:
            self._running = TrainingFisher(self._blocks, damping=self.damping, window=self.fisher_examples)
            if self._step and self._running_state is not None:
                self._running.load_state_dict(self._running_state)
            self._running_state = None
        elif self.metric == "current" and not (self._resumed and self.ekfac.blocks):
            self._refresh(strategy)
        elif self.ekfac.blocks:
            self._use_metric(strategy)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Prepare the task, and what is worked out once from its inputs."""
        super().before_training_exp(strategy, **kwargs)
        first, projection = self._task.first, self._projection
        if first is not None and self._inputs_basis_stays(strategy):
            fixed = self.metric == "prior" and isinstance(projection, MetricProjection)
            rows = projection.memory.rows if fixed and projection is not None else {}
            strategy.dataloader = first.prepare(strategy, rows.get(first.name))

    def _inputs_basis_stays(self, strategy: Any) -> bool:
        """Return whether U_A of the layer that reads the inputs stays while an experience is trained."""
        experience = strategy.experience
        return self.metric == "prior" or (
            not isinstance(experience, OnlineCLExperience) and in_memory_columns(experience.dataset.eval()) is not None
        )

    def _refresh(self, strategy: Any) -> None:
        """Take the current task's EKFAC anew.

        Where the task's inputs lie in memory, A of the layer that reads them comes from all of them (or 10,000), once:
        no weight changes it. So its basis is better than that of the examples of a refresh, and stays.
        """
        self._task.leave()
        reader = self._task.reader
        keep = {reader} if reader is not None and self._inputs_basis_stays(strategy) else set()
        if not self._step:
            examples = draw_examples(strategy, _MOST_INPUTS, self._generator) if keep else []
            self.ekfac = EKFAC({name: block_of_inputs(self._blocks[name], examples) for name in keep})
        self._fit(self.ekfac, strategy, decay=0.0, keep_inputs=keep)
        self._use_metric(strategy)

    def _why_plain(self, strategy: Any) -> str | None:
        if not self.eigenbasis:
            return "eigenbasis=False"
        if self.running:
            return "the bases of a running EKFAC are not complete"
        if self.natural:
            return "natural directions live in the eigenbases of other tasks"
        return why_not(strategy, self)

    def _check_room(self, strategy: Any) -> None:
        if self.projection != "none":
            super()._check_room(strategy)

    def _copies(self, rows: Rows) -> int:
        if self.projection != "metric":
            return super()._copies(rows)
        return 5 if isinstance(rows, FactoredRows) else 2  # rotated too, and times a metric's terms, two as a rule

    def _bytes_a_task(self, sample: Mapping[str, Rows], count: int) -> int:
        if not self.natural:
            return super()._bytes_a_task(sample, count)
        total = 0
        for rows in sample.values():
            height, width = rows.shape
            bases = (height**2 + width**2 + 2 * height * width) * rows.like.element_size()
            dense = count * height * width * rows.like.element_size()
            total += dense if kept_dense(count, rows) else count * rows.bytes // len(rows) + bases
        return total

    @property
    def _idle(self) -> bool:
        return self.metric == "prior" and self._task.metric is None

    def _use_metric(self, strategy: Any) -> None:
        """Take the EKFAC's metric, and rotate directions into its eigenbasis where they are wanted there."""
        near = self.memory.of_one_position if self.projection == "metric" and not self.pull else frozenset()
        metric = Metric(self.ekfac, self._blocks, self.damping, self.scale_tolerance, near)
        self._task.turn_to(metric, strategy)
        held = self._task.held
        if len(self.memory) and self.projection == "metric":
            self._projection = MetricProjection(self.memory, metric, held)
        elif self._projection is not None and held:
            self._projection = EuclideanProjection(self.memory.rotated(metric, held), self._projection.solver)

    def before_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        """Refresh the current task's EKFAC when it is due, and go into the eigenbasis."""
        if self._running is not None:
            if not self._step:
                self._running.fill(strategy, draw_examples(strategy, self.fisher_examples, self._generator))
            if self._step % self.refresh_every == 0:
                self._running.refresh()
        elif self.metric == "current" and self._step and self._step % self.refresh_every == 0:
            self._refresh(strategy)
        self._task.enter()
        if self._task.first is not None:
            self._task.first.offer(strategy)

    def before_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Take note of the strategy's own forward, where the EKFAC comes out of it."""
        if self._running is not None:
            self._running.open()

    def after_forward(self, strategy: Any, **kwargs: Any) -> None:
        """Rotated inputs serve the strategy's own forward only, and no other is taken note of."""
        if self._running is not None:
            self._running.close()
        if self._task.first is not None:
            self._task.first.take_back()

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        """Put the weights back for whoever looks between epochs."""
        self._task.leave()

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Consolidate in the original coordinates; the pieces of an online task share their eigenbasis."""
        if self._boundaries.ends(strategy.experience):
            self._task.close()
        super().after_training_exp(strategy, **kwargs)

    def _rewrite(self, strategy: Any) -> None:
        self._task.enter(gradient=True)  # where somebody has looked since the backward
        if self._running is not None:
            self._running.read(strategy)
        if self._running is not None and self._projection is None:
            self._running.precondition_in_place()
        elif self._projection is None and not self.pull:
            self._task.precondition()
        elif not self._step_in_coefficients():
            super()._rewrite(strategy)

    def _step_in_coefficients(self) -> bool:
        """Take the step where the first layer's projections are held in coefficients; say whether it was taken."""
        first, projection = self._task.first, self._projection
        products = first.products() if first is not None else None
        if first is None or products is None:
            return False
        assert isinstance(projection, MetricProjection)
        moving = {name for name, block in self._blocks.items() if block.has_gradient}
        if not projection.memory.rows.keys() <= moving:
            first.let_go()  # G is restricted to what moves
            return False
        others = {name: self._blocks[name].gradient(held=True) for name in moving - {first.name}}
        update, step = projection.beside(others, products)
        first.move(step)
        for name, part in update.items():
            self._blocks[name].write_gradient(part)
        return True

    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        metric = self._task.metric if self._running is None else self._running
        if metric is None:
            return None
        if self.pull and isinstance(metric, Metric):
            gradient = self._pulled(gradient, metric)
        gradient = self._moving(gradient)
        if isinstance(self._projection, MetricProjection):
            return self._projection(gradient)
        natural = metric.precondition(gradient, self._task.held)
        return self._projection(natural) if self._projection is not None else natural

    def _moved(self, metric: Metric) -> Vector:
        """Return θ − μ in the coordinates the weights are held in."""
        return self._anchor.distance(self._blocks, metric, self._task.held)

    def _pulled(self, gradient: Vector, metric: Metric) -> Vector:
        """Return g + γ F(θ − μ)."""
        force = metric.curvature(self._moved(metric), self._task.held)
        return {name: part + self.pull * force[name] for name, part in gradient.items()}

    def _fit(self, ekfac: EKFAC, strategy: Any, **options: Any) -> EKFAC:
        """Add the Fisher of the current task's examples; the options are :meth:`EKFAC.add`'s."""
        ekfac.add(
            strategy.model,
            draw_examples(strategy, self.fisher_examples, self._generator),
            fisher=self.fisher,
            samples=self.fisher_samples,
            generator=self._device_generator(strategy),
            forward=lambda batch: forward_of(strategy, batch),
            blocks=self._blocks,
            **options,
        )
        return ekfac

    def _consolidate(self, strategy: Any) -> None:
        if self.projection != "none":
            metric = Metric(self._fit(EKFAC(), strategy), self._blocks, self.damping) if self.natural else None
            self._remember(strategy, dict if metric is None else lambda rows: natural_rows(rows, metric))
        if self.metric == "prior":
            self._fit(self.ekfac, strategy)
            if self.pull:
                self._anchor.drop(self._blocks)

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions and of the finished tasks' EKFAC."""
        kept = self.ekfac.blocks.values() if self.metric == "prior" else ()
        tensors = [value for block in kept for value in vars(block).values() if isinstance(value, Tensor)]
        tensors += self._anchor.weights.values()
        return self.memory.bytes + sum(t.numel() * t.element_size() for t in tensors)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task, and the current task's EKFAC in the middle of one."""
        kept = self.metric == "prior" or self._step or self._blocks or self._resumed  # in the middle of a task
        return super().state_dict() | {
            "ekfac": self.ekfac.state_dict() if kept else {},
            "anchor": dict(self._anchor.weights),
            "running": self._running_kept(),
        }

    def _running_kept(self) -> dict[str, Any] | None:
        if self._resumed:  # loaded, and not yet trained on
            return self._running_state
        return self._running.state_dict() if self._running is not None and self._step else None

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned."""
        super().load_state_dict(state)
        self.ekfac = EKFAC()
        self.ekfac.load_state_dict(state["ekfac"])
        self._anchor.weights = dict(state["anchor"])
        self._running_state = state["running"]
