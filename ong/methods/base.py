"""What every method is: something that rewrites steps, and keeps something of each finished task."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ong.curvature import (
    Batch,
    Block,
    FisherType,
    Forward,
    Likelihood,
    Metric,
    Vector,
    evaluating,
    map_batch,
    needs_likelihood,
    without_autocast,
)
from ong.errors import UserError
from ong.methods.ahead import look_ahead
from ong.methods.data import Examples
from ong.methods.layout import Columns, columns_of
from ong.methods.network import Network
from ong.methods.packing import pack_nested, unpack_nested
from ong.methods.room import Needs, Shapes, available_bytes, check_room, shapes_of
from ong.methods.statistics import BatchNorm, RunningStatistics, check_batch_norm
from ong.methods.stepping import StepHooks

__all__ = ["Method"]

_LARGE = 10**6  # parameters from which on a look at the model takes seconds


class Method:
    """A continual-learning method in any PyTorch loop.

    >>> import torch, ong
    >>> model = torch.nn.Linear(4, 2)
    >>> sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> task = [torch.randn(8, 4), torch.arange(8) % 2]
    >>> method = ong.methods.OGD(directions_per_task=4)
    >>> with method.attach(model, sgd):
    ...     for _ in range(2):
    ...         method.begin_task(task)
    ...         torch.nn.functional.cross_entropy(model(task[0]), task[1]).backward()
    ...         sgd.step()
    ...         method.end_task(task)
    >>> method.tasks
    2

    Between :meth:`begin_task` and :meth:`end_task` every ``optimizer.step`` takes the method's update: with SGD at one
    rate v = ``update(g)`` in place of the gradient g; with any other optimizer P Δ in place of the displacement Δ that
    it made, P the linear part of the update, see :mod:`ong.methods.stepping`. Clip before the step; look at ``.grad``
    whenever you like, it is the loss's gradient.

    Attributes:
        keeps_outputs: whether Gᵀv = 0 is promised, so that whatever moves old outputs otherwise is worth a warning.
        is_linear: whether :meth:`project` is linear, so that displacements can be projected.
        adds_to_gradients: whether :meth:`force` adds a penalty's gradient.
        tasks: number of finished tasks.
        blocks: the model's parameters as the present task trains them.
        step: steps taken in the present task.
    """

    keeps_outputs: ClassVar[bool] = False
    follows_steps: ClassVar[bool] = False
    is_linear: bool = True
    adds_to_gradients: bool = False

    def __init__(self, *, batch_norm: BatchNorm = "update", seed: int = 0) -> None:
        """Set what is common.

        Args:
            batch_norm: ``"freeze"`` holds running statistics still after the first task, ``"update"`` does not.
            seed: seed of the method's own generators (which examples are drawn, random cotangents).

        Raises:
            UnknownNameError: another ``batch_norm``.
        """
        check_batch_norm(batch_norm)
        self.batch_norm: BatchNorm = batch_norm
        self.tasks = 0
        self.step = 0
        self.blocks: dict[str, Block] = {}
        self.expected_tasks = 1
        self._generator = torch.Generator().manual_seed(int(seed))  # Fisher examples and cotangents
        self._choice = torch.Generator().manual_seed(int(seed))  # direction examples, alike for all methods of a seed
        self._columns: Columns = {}  # of the finished tasks' layers
        self._untrained: set[str] = set()  # parameters that a finished task had and did not train
        self._in_task = False
        self._again = False  # whether the task had begun before
        self._resumes = False
        self._displaces = False
        self._moving: frozenset[str] | None = None
        self._hooks: StepHooks | None = None
        self._network: Network | None = None
        self._statistics: RunningStatistics | None = None
        self._examples: Examples | None = None

    # What a method is made of.

    def _begin(self, examples: Examples) -> None:
        """Get ready for a task; :attr:`blocks` is up to date, :attr:`_resumes` true in a task that goes on."""

    def _end(self, examples: Examples) -> None:
        """Keep what the finished task leaves."""

    def _needs(self, shapes: Shapes, examples: Examples) -> Needs:
        """Return what the method will take."""
        return Needs(0, shapes.steps)

    def _sizes(self, shapes: Shapes) -> dict[str, int]:
        """Return options by name whose lower values take less memory, and the largest value of each that counts."""
        return {}

    def before_step(self) -> None:
        """Do what is due before a step."""
        if not self._in_task:
            raise UserError(
                f"a step was taken outside of a task; call {type(self).__name__}.begin_task(data) before training, or "
                "detach()"
            )
        self._before_step()
        self.step += 1

    def _before_step(self) -> None:
        """Do what is due before a step, such as a refresh; :attr:`step` counts those before it."""

    def after_step(self, displacement: Vector) -> None:
        """Take note of a step that was taken, θ_before − θ_after; called where :attr:`follows_steps`."""

    def force(self, gradient: Vector) -> Vector:
        """Return the gradient of the penalised loss, from that of the loss."""
        return gradient

    def project(self, vector: Vector) -> Vector:
        """Return P v with the method's linear P, for v over the blocks that move."""
        return vector

    @property
    def is_idle(self) -> bool:
        """Whether updates are gradients as they are, which then need not be read."""
        return False

    def update(self, gradient: Vector) -> Vector:
        """Return v, what is stepped along: θ ← θ − lr·v.

        A loop that takes such steps itself calls :meth:`before_step` ahead of each, and :meth:`after_step` behind it.

        Args:
            gradient: g, a matrix ``[rows, columns]`` for each of :attr:`blocks` that moves (``block.gradient()``).
        """
        device = next((part.device for part in gradient.values()), torch.device("cpu"))
        with torch.no_grad(), without_autocast(device):
            return dict(gradient) if self.is_idle else self.project(self.force(gradient))

    @property
    def past_metric(self) -> tuple[Metric, FisherType] | None:
        """M = I + F/λ that steps are measured in, F the Fisher of the finished tasks, and the type of F."""
        return None

    @property
    def memory_bytes(self) -> int:
        """Bytes kept from task to task."""
        return 0

    def statistics(self) -> dict[str, float]:
        """Return numbers about the method's present state, by name."""
        return {"memory_bytes": self.memory_bytes}

    # How it is used.

    def attach(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        logits: Forward | None = None,
        criterion: Any = None,
        likelihood: Likelihood | None = None,
        tasks: int = 1,
    ) -> Self:
        """Hook the method to an optimizer's steps; also a context manager that takes the hooks off at its end.

        Args:
            model: the network; wrapped in ``DistributedDataParallel``, compiled, or plain.
            optimizer: any; its parameters are the ones that move. A learning rate of SGD keeps its meaning.
            logits: from a batch to outputs ``[N, C]``, where ``model(x)`` (or ``model(**inputs)``) are not these.
            criterion: the loss, from which the likelihood is read (:func:`ong.curvature.likelihood_of`).
            likelihood: ``"categorical"``, ``"bernoulli"`` or ``"gaussian"``. Without either, targets that are class
                numbers mean categorical, and any others are an error where the likelihood matters.
            tasks: how many tasks are to come, for the estimate of memory.

        Raises:
            UnknownNameError: another likelihood.
        """
        if self._hooks is not None and self._in_task and self._hooks.optimizer is not optimizer:
            raise UserError("a task is in training with another optimizer; end it, or detach(), before attaching anew")
        self.detach()
        self._network = Network(model, optimizer, logits, criterion, likelihood)
        self.expected_tasks = tasks
        self._move_to(self._network.device)
        self._hooks = StepHooks(self, optimizer)
        self._hooks.displaces, self._hooks.moving = self._displaces, self._moving
        return self

    def detach(self) -> None:
        """Take the hooks off; what is kept of finished tasks stays.

        A task in training goes on where it is attached again and :meth:`begin_task` is called with its data;
        :meth:`leave_task` before that lets go of it.
        """
        if self._hooks is not None:
            if self._in_task:
                self._displaces, self._moving = self._hooks.displaces, self._hooks.moving
                self._resumes, self._in_task = True, False
            self._hooks.close()
        if self._statistics is not None:
            self._statistics.close()
        self._hooks = self._network = self._statistics = self._examples = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._in_task and self.step:
            warnings.warn(
                f"{type(self).__name__} is left in the middle of a task, of which nothing is kept; call end_task() "
                "where a task ends",
                stacklevel=2,
            )
        self.detach()

    def before_training(self, *args: Any, **kwargs: Any) -> None:
        """Refuse to be an Avalanche plugin.

        Raises:
            UserError: always.
        """
        name = type(self).__name__
        raise UserError(f"ong.methods.{name} is for loops of one's own; in Avalanche use ong.{name}, its plugin")

    def begin_task(self, data: Any) -> None:
        """Prepare a task.

        Args:
            data: what is trained on: a loader, a ``Dataset``, a list of tensors (inputs, targets, …) or of batches.

        Raises:
            UserError: no model attached, data or outputs of another kind, a layer that no longer fits what is kept.
            UnsupportedLayerError: a model whose output for an example depends on others in its batch.
            NotFiniteError: weights or outputs that are not finite.
        """
        hooks = self._attached()
        if self._statistics is not None:
            self._statistics.close()
            self._statistics = None
        if self._in_task and self.step:
            warnings.warn(
                f"{type(self).__name__}.begin_task was called in the middle of a task, which goes on; call end_task() "
                "before it where a task ends, or nothing is kept of that task",
                stacklevel=2,
            )
        self._again, self._in_task = self._in_task, False
        self._move_to(self.device)
        examples = Examples(data, self.device)
        if not self._resumes:
            self.step = 0
        is_first = not self.tasks and not self.step
        told = self._room_ahead(examples) if is_first else []
        self.blocks = self.network.blocks(examples, self._columns)
        try:
            with without_autocast(self.device):
                self._begin(examples)
                if is_first and told != list(self.blocks):
                    shapes = self._shapes(self.network.probe(examples))
                    self._check_room(shapes, examples, available_bytes(self.device))
        except BaseException:
            self.blocks = {}
            raise
        trained = self.network.trained(self.blocks)
        if begun := sorted(self._untrained & trained):
            warnings.warn(
                f"{', '.join(begun[:5])} begin(s) to train after a task that was learned without: nothing is known of "
                "their effect on its outputs, which move; train them from the first task on, or keep them frozen",
                stacklevel=3,
            )
        later = self.tasks > 0
        self._statistics = RunningStatistics(
            self.model,
            freeze=later and self.batch_norm == "freeze",
            promised=later and self.keeps_outputs,
            compiled=self.network.compiled,
            apart={name: p for name, p in self.model.named_parameters() if name not in trained},
        )
        hooks.begin_task(resumes=self.step > 0)
        self._examples, self._in_task, self._resumes = examples, True, False

    def end_task(self, data: Any = None) -> None:
        """Keep what the finished task leaves, at the present weights.

        Args:
            data: the task's data; those given to :meth:`begin_task` by default.

        Raises:
            UserError: no task has begun; whatever :meth:`begin_task` raises.
        """
        self._attached()
        if not self._in_task or self._examples is None:
            raise UserError(f"no task has begun; call {type(self).__name__}.begin_task(data) first")
        if not self.step:
            warnings.warn(
                f"{type(self).__name__}: a task ends in which the attached optimizer took no step; attach the "
                "optimizer that trains, anew each time one is made",
                stacklevel=2,
            )
        examples = Examples(data, self.device) if data is not None else self._examples
        if self._statistics is not None:
            self._statistics.close()
            self._statistics = None
        self.blocks = self.network.blocks(examples, self._columns)  # an evaluation may have grown the model
        with without_autocast(self.device):
            self._end(examples)
        self.tasks += 1
        self._columns |= columns_of(self.blocks)
        self._untrained |= self.network.reached(examples) - self.network.trained(self.blocks)
        self.leave_task()

    def leave_task(self) -> None:
        """End a task without keeping anything of it, such as one that was learned before and is trained on again."""
        if self._statistics is not None:
            self._statistics.close()
        self.step, self._in_task, self._displaces, self._resumes = 0, False, False, False
        self._statistics = self._examples = self._moving = None

    @property
    def network(self) -> Network:
        """The network, its outputs and the likelihood of its targets.

        Raises:
            UserError: no model attached.
        """
        self._attached()
        assert self._network is not None
        return self._network

    @property
    def model(self) -> nn.Module:
        """The network, bare of wrappers."""
        return self.network.model

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return self.network.device

    def forward(self, batch: Batch) -> Tensor:
        """Return the model's logits ``[N, C]`` of a batch."""
        return self.network.forward(batch)

    def likelihood(self, examples: Examples, fisher: FisherType | None = None) -> Likelihood:
        """Return the likelihood of the targets, given or read from the criterion or the targets.

        Args:
            examples: the task's.
            fisher: what it is wanted for; a type that needs none gets ``categorical``.

        Raises:
            UserError: it is needed and cannot be told.
        """
        if fisher is not None and not needs_likelihood(fisher):
            return "categorical"
        return self.network.likelihood(examples)

    def _attached(self) -> StepHooks:
        if self._hooks is None:
            raise UserError(f"{type(self).__name__} is attached to no model; call attach(model, optimizer) first")
        return self._hooks

    def _shapes(self, batch: Batch) -> Shapes:
        """Return the blocks' shapes, told by a few examples of a task."""
        with evaluating(self.model):
            return shapes_of(self.blocks, self.forward, batch, self.expected_tasks)

    def _check_room(self, shapes: Shapes, examples: Examples, available: int) -> None:
        """Estimate what all expected tasks will take, and stop if it cannot fit.

        Raises:
            UserError: more than the memory available.
        """

        def needs(shapes: Shapes) -> Needs:
            found = self._needs(shapes, examples)
            ending = found.ending + shapes.parameters  # the gradients of the last step
            return replace(found, training=max(found.training, shapes.comparison), ending=ending)

        check_room(type(self).__name__, needs, shapes, self._sizes(shapes), available)

    def _room_ahead(self, examples: Examples) -> list[str]:
        """Check the room of a large model before anything is computed; returns the names of the blocks that told.

        Raises:
            UserError: more than the memory available.
        """
        if sum(p.numel() for p in self.model.parameters()) < _LARGE:
            return []
        available = available_bytes(self.device)

        def check(blocks: dict[str, Block], one: Batch) -> bool:
            self.blocks = blocks
            shapes = self._shapes(one)
            told = shapes.rows.keys() == blocks.keys()
            if told:
                self._check_room(shapes, examples, available)
            return told

        with without_autocast(self.device):
            return look_ahead(self.network, self.network.probe(examples), check)

    def _draw(self, examples: Examples, count: int) -> list[Batch]:
        """Draw examples with a seed of the method's own, whose number does not depend on their number."""
        return examples.draw(count, torch.Generator().manual_seed(self._seed()))

    def _seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self._generator))

    def _device_generator(self) -> torch.Generator:
        """Return a generator on the model's device, seeded from the method's own."""
        return torch.Generator(self.device).manual_seed(self._seed())

    # What is saved.

    def _state(self) -> dict[str, Any]:
        """Return what a subclass keeps, as tensors and plain values."""
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`_state` returned."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task and from step to step, as tensors and plain values.

        ``torch.save`` and ``torch.load(…, weights_only=True)`` take it, on any device. Stored inputs of few levels, as
        grey-level images are, take a byte a number there (:func:`ong.methods.packing.pack`).
        """
        within = self._in_task or self._resumes
        hooked = self._hooks if self._hooks is not None and self._in_task else None
        moving = hooked.moving if hooked is not None else self._moving
        return {
            "method": type(self).__name__,
            "tasks": self.tasks,
            "columns": dict(self._columns),
            "untrained": sorted(self._untrained),
            "generator": self._generator.get_state(),
            "choice": self._choice.get_state(),
            "step": self.step,
            "in_task": within,
            "displaces": within and (hooked.displaces if hooked is not None else self._displaces),
            "moving": None if moving is None or not within else sorted(moving),
            "kept": pack_nested(self._state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, on the model's device once one is attached.

        A state that was taken in the middle of a task goes on at its step: call :meth:`begin_task` with the task's data
        again.

        Raises:
            UserError: a state of another method.
        """
        if state.get("method") != type(self).__name__:
            raise UserError(f"this is the state of '{state.get('method')}', not of {type(self).__name__}")
        self.tasks = state["tasks"]
        self._columns = {name: (int(w), int(b)) for name, (w, b) in state["columns"].items()}
        self._untrained = set(state["untrained"])
        self._generator.set_state(state["generator"].cpu())
        self._choice.set_state(state["choice"].cpu())
        self.step, self._resumes, self._displaces = state["step"], state["in_task"], state["displaces"]
        self._in_task, self.blocks, self._examples = False, {}, None
        self._moving = None if state["moving"] is None else frozenset(state["moving"])
        if self._hooks is not None:
            self._hooks.displaces, self._hooks.moving = self._displaces, self._moving
        kept = unpack_nested(state["kept"])
        self._load(kept if self._hooks is None else map_batch(lambda t: _moved(t, self.device), kept))

    def _move_to(self, device: torch.device) -> None:
        """Move what is kept to a device, where it lies on another one."""
        state = self._state()
        places: set[torch.device] = set()
        map_batch(lambda t: places.add(t.device), state)
        if places - {device}:
            self._load(map_batch(lambda t: _moved(t, device), state))


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on a device; float64 stays where it is for one that has none."""
    return tensor if device.type == "mps" and tensor.dtype == torch.float64 else tensor.to(device)
