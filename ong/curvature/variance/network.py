"""A model seen as a function of its parameters, and of offsets added to its Linear layers' outputs.

For a Linear layer applied once to one vector a per example, z = W a + b, every derivative along one weight
is a derivative along one output: ∂h/∂W_ij = a_j ∂h/∂z_i and ∂²h/∂W_ij² = a_j² ∂²h/∂z_i², exactly, whatever
follows. Such layers are *factored*; all other parameters are *plain*.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

from ong.curvature.variance.checks import check_outputs
from ong.errors import UserError

__all__ = ["Network", "open_network"]


@dataclass(frozen=True)
class Network:
    """A model in evaluation mode.

    Attributes:
        model: the module; its own parameters are never written.
        parameters: the trainable ones by name, detached.
        factored: names of the Linear modules whose derivatives factor.
    """

    model: nn.Module
    parameters: dict[str, Tensor]
    factored: tuple[str, ...]

    def outputs(self, inputs: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return h = f_θ(x) ``[B, C]``, with some parameters replaced."""
        outputs: Tensor = functional_call(self.model, {**self.parameters, **(parameters or {})}, (inputs,))
        return outputs

    def checked_outputs(self, inputs: Tensor) -> Tensor:
        """Return h after checking its shape and finiteness."""
        with torch.no_grad():
            return check_outputs(self.outputs(inputs), len(inputs))

    def outputs_from_offsets(self, inputs: Tensor, offsets: Mapping[str, Tensor]) -> Tensor:
        """Return h when ``offsets[layer]`` ``[B, d_out]`` is added to each named Linear layer's output."""
        hooks = [
            self.model.get_submodule(name).register_forward_hook(lambda _m, _a, z, offset=offset: z + offset)
            for name, offset in offsets.items()
        ]
        try:
            return self.outputs(inputs)
        finally:
            for hook in hooks:
                hook.remove()

    def layer_inputs(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return a for each factored layer, ``[B, d_in]``."""
        calls = _linear_calls(self.model, self.parameters, inputs)
        return {name: calls[name][0] for name in self.factored}

    def width(self, layer: str) -> int:
        """Return d_out of a Linear layer."""
        return int(self.model.get_submodule(layer).out_features)  # type: ignore[arg-type]

    def factored_parameters(self, layer: str) -> dict[str, str]:
        """Return {"weight": full name, "bias": full name}, trainable ones only."""
        names = {kind: f"{layer}.{kind}" if layer else kind for kind in ("weight", "bias")}
        return {kind: name for kind, name in names.items() if name in self.parameters}

    def plain_parameters(self) -> list[str]:
        """Return the names of the parameters that belong to no factored layer."""
        taken = {name for layer in self.factored for name in self.factored_parameters(layer).values()}
        return [name for name in self.parameters if name not in taken]


@contextmanager
def open_network(model: nn.Module, inputs: Tensor, *, factor: bool = True) -> Iterator[Network]:
    """Put ``model`` in evaluation mode, find its factored layers, and restore every mode on exit.

    Attention runs on PyTorch's plain kernels meanwhile: the fused ones have no second derivatives.

    Args:
        model: returns one tensor ``[inputs, outputs]``; an example's outputs depend on that example alone.
        inputs: ``[B, …]``, B ≥ 1.
        factor: look for factored layers; without, all parameters are plain.

    Raises:
        UserError: no inputs, no trainable parameters, outputs that are not finite ``[B, C]``, or second
            derivatives through an operator that PyTorch cannot differentiate in forward mode.
    """
    if not isinstance(inputs, Tensor) or inputs.ndim == 0 or len(inputs) == 0:
        raise UserError("no inputs given; expected a tensor [inputs, …] with at least one input")
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    if not parameters:
        raise UserError(f"{type(model).__name__} has no trainable parameters; the Fisher would be empty")
    modes = {module: module.training for module in model.modules()}
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        model.eval()
        torch.backends.mha.set_fastpath_enabled(False)
        with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            # torch compiles its rules for forward mode with its own deprecated torch.jit.script
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            few = inputs[:4]
            Network(model, parameters, ()).checked_outputs(few)
            yield Network(model, parameters, _factored_layers(model, parameters, few) if factor else ())
    except NotImplementedError as error:
        if "forward AD" not in str(error):
            raise
        operator = str(error).partition("forward AD with ")[2].partition(" ")[0]
        remedy = "use mc, rademacher or gaussian, which need first derivatives only, or replace the operator"
        raise UserError(f"PyTorch has no forward-mode derivative of {operator}; {remedy}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for module, mode in modes.items():
            module.training = mode


def _linear_calls(model: nn.Module, parameters: Mapping[str, Tensor], inputs: Tensor) -> dict[str, list[Tensor]]:
    """Run the model; return the inputs each ``nn.Linear`` received, call by call."""
    calls: dict[str, list[Tensor]] = {}
    hooks = []
    for name, module in model.named_modules():
        if type(module) is nn.Linear:
            calls[name] = []
            hooks.append(module.register_forward_hook(lambda _m, a, _z, seen=calls[name]: seen.append(a[0].detach())))
    try:
        with torch.no_grad():
            functional_call(model, dict(parameters), (inputs,))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _factored_layers(model: nn.Module, parameters: dict[str, Tensor], inputs: Tensor) -> tuple[str, ...]:
    """Return the Linear layers called once on ``[B, d_in]`` whose gradient is δ aᵀ and nothing else.

    The last clause, checked on ``inputs`` with one backward pass, excludes weights that are also used
    elsewhere.
    """
    calls = _linear_calls(model, parameters, inputs)
    once = [n for n, seen in calls.items() if len(seen) == 1 and seen[0].ndim == 2 and len(seen[0]) == len(inputs)]
    network = Network(model, parameters, tuple(once))
    once = [name for name in once if network.factored_parameters(name)]
    zeros = {n: calls[n][0].new_zeros(len(inputs), network.width(n)) for n in once}
    outputs, pull, *_ = vjp(lambda p: network.outputs(inputs, p), parameters)
    cotangent = torch.linspace(1, 2, outputs.numel(), dtype=outputs.dtype, device=outputs.device).view_as(outputs)
    gradients: dict[str, Tensor] = pull(cotangent)[0]
    deltas: dict[str, Tensor] = vjp(lambda e: network.outputs_from_offsets(inputs, e), zeros)[1](cotangent)[0]
    factored = []
    for name in once:
        predicted = {"weight": deltas[name].T @ calls[name][0], "bias": deltas[name].sum(0)}
        own = network.factored_parameters(name)
        if all(_close(gradients[full], predicted[kind]) for kind, full in own.items()):
            factored.append(name)
    return tuple(factored)


def _close(left: Tensor, right: Tensor) -> bool:
    return bool(torch.linalg.vector_norm(left - right) <= 1e-3 * torch.linalg.vector_norm(right))
