"""What methods with a memory of directions share: collecting, bounding, estimating, reporting."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import torch

from ong.curvature import Batch, Block, Likelihood, Vector, evaluating, targets_of
from ong.errors import UnknownNameError, UserError
from ong.methods.base import Method
from ong.methods.data import Examples
from ong.methods.fishers import check_positive
from ong.methods.packing import pack_nested, packed_bytes
from ong.methods.room import Needs, Shapes, bytes_of, gram_bytes, readable
from ong.methods.statistics import BatchNorm
from ong.projection import (
    WORKING_BYTES,
    Bounds,
    DenseRows,
    DirectionKind,
    DirectionMemory,
    EuclideanProjection,
    GramSolver,
    MetricProjection,
    Rows,
    check_directions,
    collect_directions,
    direction_cotangents,
    matrix_bytes,
    rounded_rows,
    worked_with,
)

__all__ = ["STORAGES", "DirectionMethod", "Storage"]

Storage = Literal["full", "half"]
STORAGES: tuple[str, ...] = get_args(Storage)

_SCARCE = 0.5  # share of the parameters' space below which the room that is left is told


class DirectionMethod(Method):
    """Keeps directions of finished tasks, within bounds, and projects off them.

    Attributes:
        memory: G, the stored directions.
        bounds: how much it may hold.
        directions_dropped: how many directions the bounds have cost so far.
        directions_captured: the share of the last task's memory, before the bounds, that the kept directions span.
    """

    def __init__(
        self,
        *,
        directions: DirectionKind,
        directions_per_task: int,
        max_directions: int | None,
        max_bytes: int | None,
        storage: Storage,
        batch_norm: BatchNorm,
        seed: int,
    ) -> None:
        """Choose what is stored, and how much.

        Args:
            directions: ``gtl`` (the true logit), ``ave``, ``all`` or ``loss``, see
                :func:`ong.projection.collect_directions`.
            directions_per_task: training examples drawn from each finished task; ``all`` stores one direction an output
                and example.
            max_directions: most directions kept; past it the most independent ones stay.
            max_bytes: most bytes of directions worked with, unpacked, likewise (their Gram, 8 M² bytes, comes on top).
                What they leave of it, by default 2 GB, goes to matrices in place of factors of many positions, with
                which steps are faster (:func:`ong.projection.worked_with`).
            storage: ``"full"``, or ``"half"``: factors and gradients rounded to 11 significant bits as they are
                collected, which a state keeps in float16 (a task works with floats). Stored outputs then stay to about
                2⁻¹⁰ of their gradients' length.
            batch_norm: see :class:`Method`.
            seed: which examples are drawn.

        Raises:
            UserError: an unknown kind or storage, or a number below 1.
        """
        super().__init__(batch_norm=batch_norm, seed=seed)
        check_directions(directions)
        check_positive(directions_per_task=directions_per_task)
        self.directions: DirectionKind = directions
        self.directions_per_task = directions_per_task
        if storage not in STORAGES:
            raise UnknownNameError("storage", storage, STORAGES)
        self.storage: Storage = storage
        self.bounds = Bounds(max_directions, max_bytes)
        self.memory = DirectionMemory()
        self.directions_dropped = 0
        self.directions_captured = 1.0
        self._projection: EuclideanProjection | MetricProjection | None = None

    def _begin(self, examples: Examples) -> None:
        self.memory.fit_to(self.blocks)
        self._check_dtype()
        self._check_targets(examples)
        self._projection = self._projector()
        self._warn_of_room()

    def _check_dtype(self) -> None:
        for name, rows in self.memory.rows.items():
            dtype = self.blocks[name].values().dtype if name in self.blocks else rows.like.dtype
            if rows.like.dtype != dtype:
                raise UserError(
                    f"directions were stored in {rows.like.dtype} and the model is in {dtype} now; keep the model in "
                    "one type over all tasks"
                )

    def _projector(self) -> EuclideanProjection | MetricProjection | None:
        """Return what the task's steps are projected by."""
        return EuclideanProjection(self.memory, self._worked()) if len(self.memory) else None

    def _worked(self) -> DirectionMemory:
        """Return the directions in the form that steps multiply with."""
        return worked_with(self.memory, self._budget(self.memory.bytes))

    def _budget(self, kept: int) -> int:
        """Return the most bytes of matrices that may be worked with beside directions of so many bytes."""
        return WORKING_BYTES if self.bounds.max_bytes is None else max(0, self.bounds.max_bytes - kept)

    def _likelihood_of_directions(self, examples: Examples) -> Likelihood:
        return self.likelihood(examples) if self.directions == "loss" else "categorical"

    def _check_targets(self, examples: Examples) -> None:
        """See before training that the kind of direction has the targets it needs."""
        batch = self.network.probe(examples)
        likelihood = self._likelihood_of_directions(examples)
        with evaluating(self.model), torch.no_grad():
            for _ in direction_cotangents(self.forward(batch), targets_of(batch), self.directions, likelihood):
                break

    def _collect(self, batch: Batch, examples: Examples) -> dict[str, Rows]:
        found = collect_directions(
            self.model,
            batch,
            kind=self.directions,
            likelihood=self._likelihood_of_directions(examples),
            blocks=self.blocks,
            forward=self.forward,
        )
        return found if self.storage == "full" else {name: rounded_rows(rows) for name, rows in found.items()}

    def _remember(
        self,
        examples: Examples,
        batches: Sequence[Batch] | None = None,
        kept_as: Callable[[dict[str, Rows]], dict[str, Rows]] = dict,
    ) -> None:
        """Add the directions of examples, newly drawn from the finished task or given, and keep within the bounds."""
        if batches is None:
            batches = examples.draw(self.directions_per_task, self._choice)
        for batch in batches:
            self.memory.extend(kept_as(self._collect(batch, examples)), self.blocks)
        self._bound()

    def _bound(self) -> None:
        before = len(self.memory)
        self.memory, self.directions_captured = self.bounds.apply(self.memory)
        self.directions_dropped += before - len(self.memory)

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        """Return what the tasks will leave, from a gradient of an output, and what is worked with beside it.

        Blocks that these do not reach, such as experts, count with matrices, the most that they can take.

        Raises:
            UserError: a ``max_bytes`` that holds not one direction.
        """
        unreached = {n: _matrix(block) for n, block in shapes.blocks.items() if n not in shapes.rows}
        sample = {**shapes.rows, **unreached}
        most = sys.maxsize if examples.count is None else examples.count
        most = shapes.limited("directions_per_task", most, most)
        a_task, of_a_task = self._left_by_a_task(sample, self._an_example(shapes), most, shapes)
        each = max(1, of_a_task // a_task)
        one = of_a_task - bytes_of(sample, a_task - 1) - bytes_of(unreached, 1)
        if self.bounds.max_bytes is not None and one > self.bounds.max_bytes:
            raise UserError(
                f"max_bytes={self.bounds.max_bytes} holds not one direction of this model, which takes {one} bytes"
            )
        held = shapes.limited("max_directions", self.bounds.max_directions, shapes.tasks * a_task)
        if self.bounds.max_bytes is not None:
            held = min(held, self.bounds.max_bytes // each)
        added = min(held + a_task, shapes.tasks * a_task)  # before the bounds are applied
        matrices = sum(matrix_bytes(sample, held, self._budget(held * each)).values())
        return Needs(
            held * each,
            matrices + gram_bytes(held) + shapes.steps,
            (2 * added - held) * each + gram_bytes(added),  # two copies while more are added
            f" ({held} directions, {readable(each)} each)",
        )

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        of_task = self.directions_per_task
        return {"max_directions": shapes.tasks * of_task * self._an_example(shapes), "directions_per_task": of_task}

    def _an_example(self, shapes: Shapes) -> int:
        """Return how many directions an example has."""
        return shapes.outputs if self.directions == "all" else 1

    def _left_by_a_task(
        self, sample: Mapping[str, Rows], an_example: int, most: int, shapes: Shapes
    ) -> tuple[int, int]:
        """Return how many directions a task will leave, and the bytes they take.

        Args:
            sample: a few directions.
            an_example: directions an example.
            most: examples that there are.
            shapes: the model's.
        """
        count = min(self.directions_per_task, most) * an_example
        return count, bytes_of(sample, count)

    def _warn_of_room(self) -> None:
        found = self._room()
        if found and found["space_left"] < _SCARCE:
            rank, total = int(found["rank"]), self._parameters()
            warnings.warn(
                f"{type(self).__name__}: {rank} independent directions are stored for {total} parameters, so "
                f"{found['space_left']:.0%} of the space is left to learn in; keep fewer (directions_per_task, "
                "max_directions), or take a wider net",
                stacklevel=4,
            )

    @property
    def solver(self) -> GramSolver | None:
        """The pseudo-inverse that the task's steps are projected by; None where nothing is stored."""
        return self._projection.solver if self._projection is not None else None

    def _parameters(self) -> int:
        return sum(rows * columns for rows, columns in (block.shape for block in self.blocks.values()))

    def _room(self) -> dict[str, float]:
        solver = self.solver
        if solver is None or not self.blocks:
            return {}
        return {"rank": solver.rank, "space_left": 1 - min(1.0, solver.rank / self._parameters())}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to project off."""
        return self._projection is None

    def project(self, vector: Vector) -> Vector:
        """Return the vector off the stored directions."""
        return self._projection(vector) if self._projection is not None else vector

    @property
    def memory_bytes(self) -> int:
        """Bytes of the stored directions, packed (:func:`ong.methods.packing.pack`); a task works with floats."""
        return packed_bytes(pack_nested([rows.state_dict() for rows in self.memory.rows.values()]))

    def statistics(self) -> dict[str, float]:
        """Return numbers about the memory, and about the projection of the task in training.

        ``rank`` independent directions, of the parameters' space the share ``space_left``, and the ``condition`` of the
        Gram matrix.
        """
        kept = {
            "directions": len(self.memory),
            "directions_dropped": self.directions_dropped,
            "directions_captured": self.directions_captured,
        }
        factored = {"condition": self.solver.condition} if self.solver is not None else {}
        return super().statistics() | kept | self._room() | factored

    def _state(self) -> dict[str, Any]:
        return super()._state() | {
            "memory": self.memory.state_dict(),
            "directions_dropped": self.directions_dropped,
            "directions_captured": self.directions_captured,
        }

    def _load(self, state: dict[str, Any]) -> None:
        super()._load(state)
        self.memory = DirectionMemory.from_state_dict(state["memory"])
        self.directions_dropped = state["directions_dropped"]
        self.directions_captured = state["directions_captured"]
        self._projection = None


def _matrix(block: Block) -> DenseRows:
    """Return zeros as large as a gradient of a block can become, in the memory of one number."""
    parameter = block.parameters[0]
    zero = torch.zeros((), dtype=torch.promote_types(parameter.dtype, torch.float32), device=parameter.device)
    return DenseRows(zero.expand(1, *block.shape))
