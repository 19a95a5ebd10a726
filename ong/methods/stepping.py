"""Where a step is rewritten: hooks before and after ``optimizer.step``.

With SGD at one rate for all parameters the gradient is replaced while the optimizer takes its step. With any other
optimizer (Adam, weight decay, a rate a group) the displacement Δ that it made is replaced by PΔ. Either way whatever
comes before the step (accumulation, scaling, clipping, other plugins) has happened, and ``.grad`` is what it was.
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ong.curvature import Block, Vector, without_autocast
from ong.errors import UserError

__all__ = ["StepHooks", "Stepper"]

_OF_A_RATE = ("lr", "momentum", "dampening", "nesterov", "maximize")


class Stepper(Protocol):
    """What rewrites steps."""

    blocks: dict[str, Block]
    follows_steps: ClassVar[bool]
    is_linear: bool
    adds_to_gradients: bool

    @property
    def model(self) -> nn.Module:
        """The network."""

    @property
    def device(self) -> torch.device:
        """The device of the model."""

    def before_step(self) -> None:
        """A step is about to be taken."""

    def after_step(self, displacement: Vector) -> None:
        """A step was taken, θ_before − θ_after; called where ``follows_steps``."""

    def force(self, gradient: Vector) -> Vector:
        """Return the gradient of the penalised loss."""

    def project(self, vector: Vector) -> Vector:
        """Return P v, for the linear P of the method."""

    @property
    def is_idle(self) -> bool:
        """Whether ``force`` and ``project`` are identities now."""


class StepHooks:
    """Hooks on one optimizer.

    Attributes:
        displaces: whether displacements are replaced; once they are, they are for the rest of the task, as a momentum
            buffer then holds plain gradients.
        moving: the blocks that the last step moved.
    """

    def __init__(self, stepper: Stepper, optimizer: torch.optim.Optimizer) -> None:
        others = [hook.__self__ for hook in optimizer._optimizer_step_pre_hooks.values() if hasattr(hook, "__self__")]
        for other in others:
            if isinstance(other, StepHooks):
                raise UserError(
                    f"{type(other._stepper).__name__} rewrites the steps of this optimizer already; what two methods "
                    "promise does not hold together: detach() the first"
                )
        self.optimizer = optimizer
        self.displaces = False
        self._stepper: Stepper = stepper
        self._originals: dict[nn.Parameter, Tensor | None] = {}
        self._before: Vector | None = None
        self.moving: frozenset[str] | None = None
        self._trained: set[int] = set()
        self._handles = [
            optimizer.register_step_pre_hook(self._pre),
            optimizer.register_step_post_hook(self._post),
            optimizer.register_load_state_dict_post_hook(self._loaded),
        ]

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer whose state was loaded may bring momentum from under another projection."""
        if any(group.get("momentum") for group in optimizer.param_groups):
            self._displace()

    def begin_task(self, *, resumes: bool) -> None:
        """Look at what the optimizer trains, and forget the momentum of a former task, whose projection was another."""
        known = {id(parameter) for parameter in self._stepper.model.parameters()}
        self._trained = {id(p) for p in self._parameters() if id(p) not in known}  # a criterion's
        self._trained |= {id(p) for block in self._stepper.blocks.values() for p in block.parameters}
        self._check_kind()
        if resumes:
            return
        self.moving = None
        self.displaces = False
        if isinstance(self.optimizer, torch.optim.SGD):
            for state in self.optimizer.state.values():
                state.pop("momentum_buffer", None)

    def _check_kind(self) -> None:
        """Refuse optimizers that a gradient other than the loss's own leads astray."""
        name = type(self.optimizer).__name__
        if self._stepper.adds_to_gradients:
            if any(group.get("maximize") for group in self.optimizer.param_groups):
                raise UserError(f"{name}(maximize=True) would climb the penalty as well; minimise the negative loss")
            if any(group.get("line_search_fn") for group in self.optimizer.param_groups):
                raise UserError(f"the line search of {name} does not see the penalty; use line_search_fn=None")
            if isinstance(self.optimizer, torch.optim.SparseAdam):
                raise UserError("SparseAdam takes sparse gradients, which a penalty's is not; use Adam, sparse=False")

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _pre(
        self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._put_back()  # of a step that failed
        self._before = None
        with without_autocast(self._stepper.device):
            self._stepper.before_step()
        rest = args[1:] if args and args[0] is optimizer else args
        closure = kwargs.get("closure", rest[0] if rest else None)
        if not self.displaces and not _one_rate(optimizer):
            self._displace()
        idle = self._stepper.is_idle
        with torch.no_grad(), without_autocast(self._stepper.device):
            if self._stepper.follows_steps or (self.displaces and not idle):
                self._before = {name: block.values() for name, block in self._stepper.blocks.items()}
            if closure is None:
                if not idle:
                    self._rewrite()
                return None
        if idle:
            return None

        def rewritten() -> Any:
            with torch.enable_grad():
                loss = closure()
            with torch.no_grad(), without_autocast(self._stepper.device):
                self._rewrite()
            return loss

        kwargs = {key: value for key, value in kwargs.items() if key != "closure"}
        return (*args[: len(args) - len(rest)], rewritten, *rest[1:]), kwargs

    def _displace(self) -> None:
        if not self._stepper.is_linear:
            raise UserError(
                f"{type(self._stepper).__name__} here takes steps of one length, which an optimizer's displacements "
                "cannot be turned into; use torch.optim.SGD at one rate, without weight decay, for all layers together"
            )
        self.displaces = True

    def _check_parameters(self) -> None:
        """See that what is about to move is what the task began with, whole blocks of it."""
        moving = {id(parameter) for parameter in self._parameters() if parameter.grad is not None}
        wrong = moving - self._trained
        for block in self._stepper.blocks.values():
            parts = {id(parameter) for parameter in block.parameters}
            if parts & moving != parts:
                wrong |= parts & moving
        if wrong:
            names = [f"'{name}'" for name, p in self._stepper.model.named_parameters() if id(p) in wrong]
            raise UserError(
                f"the parameters that are trained changed in the middle of a task (see {', '.join(names[:5])}): "
                "freeze layers as a whole, and call begin_task(data) again after it"
            )

    def _mixes(self, moving: frozenset[str]) -> bool:
        """Return whether SGD's momentum mixes steps of different layers, whose projections differ."""
        before, self.moving = self.moving, moving
        momentum = any(group.get("momentum") for group in self.optimizer.param_groups)
        return momentum and before is not None and moving != before

    def _rewrite(self) -> None:
        """Put the update, or the gradient of the penalised loss, into the ``.grad`` fields for the time of the step."""
        self._check_parameters()
        blocks = {name: block for name, block in self._stepper.blocks.items() if block.has_gradient}
        if not self.displaces and self._mixes(frozenset(blocks)):
            self._displace()
            self._before = {name: block.values() for name, block in self._stepper.blocks.items()}
        gradient = {name: block.gradient() for name, block in blocks.items()}
        scale = getattr(self.optimizer, "grad_scale", None)  # an optimizer that unscales for itself is about to
        if scale is not None:
            gradient = {name: part / scale.to(part) for name, part in gradient.items()}
            self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        update = self._stepper.force(gradient)
        if not self.displaces:
            update = self._stepper.project(update)
        elif update is gradient and scale is None:
            return
        for name, matrix in update.items():
            block = blocks[name]
            for parameter, part in zip(block.parameters, block.split(matrix), strict=True):
                if parameter.grad is not None:
                    self._originals[parameter] = parameter.grad
                    parameter.grad = part

    def _put_back(self) -> None:
        for parameter, gradient in self._originals.items():
            parameter.grad = gradient
        self._originals = {}

    @torch.no_grad()
    def _post(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        self._put_back()
        before, self._before = self._before, None
        if before is None:
            return
        stepper = self._stepper
        moved = {n: b for n, b in stepper.blocks.items() if b.has_gradient or not self._skips_without_gradient}
        displacement = {name: before[name] - block.values() for name, block in moved.items()}
        if self.displaces and not stepper.is_idle:
            with without_autocast(stepper.device):
                displacement = displacement | stepper.project(displacement)
            for name, block in moved.items():
                values = block.split(before[name] - displacement[name])
                for parameter, part in zip(block.parameters, values, strict=True):
                    parameter.copy_(part)
        if stepper.follows_steps:
            stepper.after_step(displacement)

    @property
    def _skips_without_gradient(self) -> bool:
        """Whether the optimizer leaves parameters without a gradient alone, as all of torch's but LBFGS do."""
        return not isinstance(self.optimizer, torch.optim.LBFGS)


def _one_rate(optimizer: torch.optim.Optimizer) -> bool:
    """Return whether a step is a gradient (and its momentum) times one number for all parameters."""
    if type(optimizer) is not torch.optim.SGD:
        return False
    first, *others = optimizer.param_groups
    if any(group.get("weight_decay") for group in optimizer.param_groups):
        return False
    return all(_same(first.get(key), group.get(key)) for group in others for key in _OF_A_RATE)


def _same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return left is right  # comparing tensors would wait for the device
    return bool(left == right)
