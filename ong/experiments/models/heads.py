"""Any network with a head for each task, or with a head that grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from avalanche.models import IncrementalClassifier, MultiHeadClassifier, MultiTaskModule
from torch import Tensor, nn

from ong.errors import UserError

__all__ = ["Heads", "growing", "trial"]


class Heads(MultiTaskModule):  # type: ignore[misc]
    """A network with a last layer a task, the task known."""

    def __init__(self, network: nn.Module, shape: Sequence[int]) -> None:
        """Take a network's last layer off.

        Args:
            network: ends in a linear layer.
            shape: channels, height, width of an input.

        Raises:
            UserError: it does not end in a linear layer.
        """
        super().__init__()
        last = _replaced(network, shape, lambda last: nn.Identity())
        self.body = network
        self.heads = MultiHeadClassifier(last.in_features, initial_out_features=last.out_features, masking=False)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Return each example's logits, from its task's head."""
        outputs: Tensor = self.heads(self.body(x), task_labels)
        return outputs


def growing(network: nn.Module, shape: Sequence[int]) -> nn.Module:
    """Return a network whose last layer has outputs of classes that tasks have brought; others are masked.

    The last layer becomes Avalanche's ``IncrementalClassifier``. Outputs of classes that no task has brought yet are
    −1000, so that neither a softmax nor an answer sees them.

    Args:
        network: ends in a linear layer; it is changed.
        shape: channels, height, width of an input.

    Raises:
        UserError: it does not end in a linear layer.
    """
    _replaced(network, shape, lambda last: IncrementalClassifier(last.in_features))
    return network


def trial(network: nn.Module, shape: Sequence[int]) -> Tensor:
    """Return a network's outputs for two images of zeros in evaluation mode.

    Raises:
        UserError: it does not take such images, or its outputs are not ``[N, outputs]``.
    """
    name, training = type(network).__name__, network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"model {name} does not take images of {' × '.join(map(str, shape))} numbers: {why}") from None
    finally:
        network.train(training)
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != 2:
        found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise UserError(f"model {name} gives {found} for two images, expected a tensor (2, number of classes)")
    return outputs


def _replaced(network: nn.Module, shape: Sequence[int], replacement: Callable[[nn.Linear], nn.Module]) -> nn.Linear:
    """Put something in the place of the linear layer whose output is the network's, and return that layer."""
    seen: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        outputs = trial(network, shape)
    finally:
        for hook in hooks:
            hook.remove()
    name = next((name for name, output in seen.items() if output is outputs), None)
    if not name:
        raise UserError(
            f"model {type(network).__name__} does not end in a linear layer, which heads could take the place of; "
            "derive it from avalanche.models.MultiTaskModule, or choose another scenario"
        )
    last = network.get_submodule(name)
    assert isinstance(last, nn.Linear)
    parent, _, leaf = name.rpartition(".")
    setattr(network.get_submodule(parent), leaf, replacement(last))
    return last
