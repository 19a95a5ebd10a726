"""What every plugin here shares: gradients read as blocks, rewritten before the step, knowledge kept after a task."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import torch
from avalanche.core import BaseSGDPlugin, SupervisedPlugin

from ong.curvature import Block, Unsupported, Vector
from ong.errors import UnknownNameError
from ong.plugins.boundaries import Boundaries, check_boundaries, identity_of, task_of, whole_task
from ong.plugins.holding import release
from ong.plugins.model_blocks import Columns, blocks_of, check_columns, columns_of

__all__ = ["GradientPlugin"]


class GradientPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Rewrites ``.grad`` between backward and step, in any Avalanche supervised strategy.

    Subclasses say what an update is (:meth:`_update`) and what a finished task leaves behind (:meth:`_consolidate`).
    Put the plugin last in the strategy's list, so that nothing changes the gradient after it.

    A task counts once: training on it again neither stores nor forgets anything. In an online stream a task ends with
    its last piece, which the stream must tell (``access_task_boundaries=True``).

    Attributes:
        tasks_seen: identities of the consolidated tasks, :func:`ong.plugins.boundaries.identity_of`.
    """

    def __init__(self, *, unsupported: Unsupported = "error", seed: int = 0) -> None:
        """Set what is common.

        Args:
            unsupported: what to do with layers whose curvature is unknown, see :func:`ong.curvature.find_blocks`.
            seed: seed of the plugin's own generator (which examples are drawn, random cotangents).
        """
        super().__init__()
        if unsupported not in ("error", "ignore"):
            raise UnknownNameError("choice of unsupported", unsupported, ("error", "ignore"))
        self.unsupported = unsupported
        self.tasks_seen: list[str] = []
        self._generator = torch.Generator().manual_seed(seed)  # Fisher examples and cotangents
        self._choice = torch.Generator().manual_seed(seed)  # direction examples: the same for all plugins of a seed
        self._blocks: dict[str, Block] = {}
        self._columns: Columns = {}  # of the finished tasks' layers
        self._boundaries = Boundaries()
        self._step = 0  # steps taken in the current task
        self._resumed = False
        self._warned = False

    @abstractmethod
    def _update(self, gradient: Vector, strategy: Any) -> Vector | None:
        """Return what is to be stepped along, or None to leave the gradient as it is.

        ``gradient`` is zero in a block that took no part in the loss (another task's head), and what is returned for
        such a block is not stepped along: see :meth:`_moving`.
        """

    @abstractmethod
    def _consolidate(self, strategy: Any) -> None:
        """Keep what the finished task leaves behind; ``strategy.experience`` is the whole task."""

    def _prepare(self, strategy: Any) -> None:
        """Get ready for a task; :attr:`_blocks` is up to date, :attr:`_step` above 0 in a task that goes on."""

    def _moving(self, gradient: Vector) -> Vector:
        """Return the gradient over the blocks that will move: those that took part in the loss."""
        return {name: part for name, part in gradient.items() if self._blocks[name].has_gradient}

    @property
    def _idle(self) -> bool:
        """Whether updates are gradients as they are, which then need not be read."""
        return False

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Bytes kept from task to task."""

    def statistics(self) -> dict[str, float]:
        """Return numbers about the plugin's present state, by name."""
        return {"memory_bytes": self.memory_bytes}

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Find the model's blocks, which may have grown, and prepare the update."""
        experience = strategy.experience
        check_boundaries(self, experience)
        release(strategy.model)  # from what an interrupted training may have left behind
        if not self._boundaries.begins(experience) and self._blocks:
            return
        self._find_blocks(strategy)
        if not self._warned:
            self._warn_of_optimizer(strategy.optimizer)
            self._warn_of_order(strategy)
            self._warned = True
        if not self._resumed:
            self._step = 0
        try:
            check_columns(self._columns, strategy.model, self._blocks)
            self._prepare(strategy)
        except BaseException:
            self._blocks = {}  # so that the next piece of an online stream prepares the task
            raise
        self._resumed = False

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        """Replace the gradient by the update."""
        if not self._idle:
            with torch.no_grad():
                self._rewrite(strategy)
        self._step += 1

    def _rewrite(self, strategy: Any) -> None:
        """Put the update into the ``.grad`` fields."""
        gradient = {name: block.gradient(held=True) for name, block in self._blocks.items()}
        for name, part in (self._update(gradient, strategy) or {}).items():
            self._blocks[name].write_gradient(part)

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Consolidate a task that was not seen before; momentum does not outlive its task."""
        experience = strategy.experience
        if not self._boundaries.ends(experience):
            return
        identity = identity_of(task_of(experience))
        if identity not in self.tasks_seen:
            self._find_blocks(strategy)  # an evaluation during training may have grown the model
            with whole_task(strategy):
                self._consolidate(strategy)
            self.tasks_seen.append(identity)
            self._columns |= columns_of(self._blocks)
            for state in strategy.optimizer.state.values():
                state.pop("momentum_buffer", None)
        self._step, self._blocks = 0, {}  # whatever is trained next is prepared anew

    def _find_blocks(self, strategy: Any) -> None:
        with warnings.catch_warnings():
            if self._warned:
                warnings.simplefilter("ignore")
            self._blocks = blocks_of(strategy, self.unsupported)

    def _warn_of_order(self, strategy: Any) -> None:
        plugins = list(strategy.plugins)
        later = plugins[plugins.index(self) + 1 :] if self in plugins else []
        for plugin in later:
            hook = getattr(type(plugin), "before_update", BaseSGDPlugin.before_update)
            if hook is not BaseSGDPlugin.before_update:
                warnings.warn(
                    f"{type(plugin).__name__}.before_update runs after {type(self).__name__}: what it does to the "
                    f"gradient, beyond scaling it as a whole, undoes the projection; put {type(self).__name__} last in "
                    "the list of plugins",
                    stacklevel=4,
                )

    def _warn_of_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        name = type(self).__name__
        if not isinstance(optimizer, torch.optim.SGD):
            warnings.warn(
                f"{name} with {type(optimizer).__name__}: an optimizer that rescales coordinates bends the update out "
                "of the subspace it was projected to; use torch.optim.SGD",
                stacklevel=4,
            )
        if any(group.get("weight_decay") for group in optimizer.param_groups):
            warnings.warn(
                f"{name} with weight decay: the decay is added after the projection and moves old outputs; "
                "use weight_decay=0",
                stacklevel=4,
            )

    def _device_generator(self, strategy: Any) -> torch.Generator:
        """Return a generator on the model's device, seeded from the plugin's own."""
        seed = int(torch.randint(2**62, (), generator=self._generator))
        return torch.Generator(strategy.device).manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return all that is kept from task to task and from step to step, as tensors and plain values."""
        return {
            "tasks_seen": list(self.tasks_seen),
            "columns": dict(self._columns),
            "generator": self._generator.get_state(),
            "choice": self._choice.get_state(),
            "step": self._step,
            "first_piece": self._boundaries.first,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned; the next experience goes on as if never interrupted.

        A state that was taken in the middle of a task goes on at its step, on the same experience or on the next piece
        of an online stream.
        """
        self.tasks_seen = list(state["tasks_seen"])
        self._columns = dict(state["columns"])
        self._generator.set_state(state["generator"])
        self._choice.set_state(state["choice"])
        self._step = state["step"]
        self._boundaries.first = state["first_piece"]
        self._blocks = {}
        self._resumed = True
