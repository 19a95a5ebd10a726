"""From the names in a recipe to objects: classes by ``module:Name``, networks, optimizers, strategies."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
from avalanche.models import BaseModel, MultiHeadClassifier, MultiTaskModule
from avalanche.training.templates import BaseSGDTemplate
from torch import Tensor, nn

from ong.errors import UnknownNameError, UserError
from ong.experiments.options import check_options, is_table
from ong.experiments.schema import Buildable, ModelRecipe

__all__ = ["MODELS", "build", "build_model", "build_optimizer", "parts_of", "resolve"]


def resolve(use: str, kind: type, what: str) -> type:
    """Return the class that ``"module:Name"`` names, a subclass of ``kind``.

    Raises:
        UserError: another form, no such module or name, or a class of another kind.
    """
    module_name, colon, name = use.partition(":")
    if not colon or not name:
        raise UserError(f"{what}: use = '{use}' is not of the form 'module:Name'")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise UserError(f"{what}: use = '{use}': cannot import '{module_name}' ({error})") from None
    if not hasattr(module, name):
        public = [n for n in dir(module) if not n.startswith("_")]
        raise UnknownNameError(f"name in {module_name} ({what})", name, public)
    found = getattr(module, name)
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise UserError(f"{what}: use = '{use}' is not a subclass of {kind.__module__}.{kind.__name__}")
    return found


def build(recipe: Buildable, kind: type, what: str, *args: Any, **given: Any) -> Any:
    """Build what a recipe names, its options checked by name against the constructor.

    An option that is a table with ``use`` is built in the same way.

    Args:
        recipe: the class and its options.
        kind: what it must be a subclass of.
        what: how errors name it.
        args: further positional arguments.
        given: further keyword arguments; those the constructor does not have are left out, options win over them.

    Raises:
        UserError: an unknown option, a missing one, a value of another type, or one the constructor refuses.
    """
    found = resolve(recipe.use, kind, what)
    named = [n for n, p in inspect.signature(found).parameters.items() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    known = named if issubclass(found, BaseSGDTemplate) else None  # they pass what they do not know up, to nobody
    check_options(found, recipe.options, f"{what} {found.__name__}", known)
    options = {name: value for name, value in given.items() if name in named} | recipe.options
    for name, value in options.items():
        if is_table(value):
            options[name] = build(Buildable(**value), object, f"{what} {found.__name__}: '{name}'", **given)
    try:
        return found(*args, **options)
    except UserError:
        raise
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{what} {found.__name__}: {error or 'its options contradict each other'}") from None


class Network(nn.Sequential, BaseModel):  # type: ignore[misc]
    """Layers one after the other, the last of which is linear; the others make features."""

    def get_features(self, x: Tensor) -> Tensor:
        """Return what the last layer is given."""
        features: Tensor = self[:-1](x)
        return features


def mlp(shape: Sequence[int], classes: int, *, hidden: Sequence[int]) -> Network:
    """Return a ReLU network on flattened images, biases everywhere.

    Raises:
        UserError: a width below 1.
    """
    if any(width < 1 for width in hidden):
        raise UserError(f"model mlp: hidden widths must be at least 1, got {list(hidden)}")
    widths = [math.prod(shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return Network(*layers, nn.Linear(widths[-1], classes))


def cnn(
    shape: Sequence[int],
    classes: int,
    *,
    channels: Sequence[int] = (8, 16),
    kernel: int = 3,
    pool: int = 2,
    hidden: Sequence[int] = (),
) -> Network:
    """Return a ReLU network of convolutions, each with a max pooling after it, and linear layers; biases everywhere.

    Args:
        shape: channels, height and width of the images.
        classes: number of outputs.
        channels: output channels of each convolution, which keeps the images' size.
        kernel: side of the convolutions' kernels, odd.
        pool: factor by which each pooling shrinks height and width.
        hidden: widths of linear layers before the last.

    Raises:
        UserError: a number out of range, or images too small for so many poolings.
    """
    if any(width < 1 for width in (*channels, *hidden)) or kernel < 1 or kernel % 2 == 0 or pool < 1:
        raise UserError(
            "model cnn: channels, hidden and pool must be at least 1 and kernel odd, got "
            f"channels={list(channels)}, hidden={list(hidden)}, pool={pool}, kernel={kernel}"
        )
    depth, height, width = shape
    layers: list[nn.Module] = []
    for outputs in channels:
        layers += [nn.Conv2d(depth, outputs, kernel, padding=kernel // 2), nn.ReLU(), nn.MaxPool2d(pool)]
        depth, height, width = outputs, height // pool, width // pool
    if not height * width:
        raise UserError(
            f"model cnn: {len(channels)} poolings by {pool} leave nothing of images of {shape[1]} × {shape[2]}"
        )
    return Network(*layers, *mlp((depth, height, width), classes, hidden=hidden))


MODELS: dict[str, Callable[..., Network]] = {"cnn": cnn, "mlp": mlp}
"""Networks a benchmark recipe can name; each takes the images' shape and the number of classes."""


class Heads(MultiTaskModule):  # type: ignore[misc]
    """A built-in network with a last layer a task, the task known."""

    def __init__(self, network: Network) -> None:
        """Take a network's last layer off."""
        super().__init__()
        self.body = nn.Sequential(*network[:-1])
        self.heads = MultiHeadClassifier(
            network[-1].in_features, initial_out_features=network[-1].out_features, masking=False
        )

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        """Return each example's logits, from its task's head."""
        outputs: Tensor = self.heads(self.body(x), task_labels)
        return outputs


def build_model(recipe: ModelRecipe, shape: Sequence[int], classes: int, *, heads: bool = False) -> nn.Module:
    """Build a benchmark's network with the global generator as it stands.

    A class given by ``use`` may take ``shape`` (channels, height, width) and ``classes``.

    Args:
        recipe: the benchmark's.
        shape: channels, height, width.
        classes: outputs, of a head where there is one a task.
        heads: whether tasks are labelled, so that there is one a task.

    Raises:
        UserError: neither or both of ``name`` and ``use``, an unknown name or option; a class that does not take the
            labels there are.
    """
    if (recipe.name is None) == (recipe.use is None):
        raise UserError("model: give either 'name' (a built-in network) or 'use' ('module:Class')")
    if recipe.use is not None:
        part = Buildable(use=recipe.use, **recipe.options)
        model: nn.Module = build(part, nn.Module, "model", shape=tuple(shape), classes=classes)
        if heads and not isinstance(model, MultiTaskModule):
            raise UserError(
                f"model {type(model).__name__} does not take the task labels that this stream has (scenario 'task'); "
                "derive it from avalanche.models.MultiTaskModule, or choose another scenario"
            )
        return model
    assert recipe.name is not None
    if recipe.name not in MODELS:
        raise UnknownNameError("model", recipe.name, MODELS)
    maker = MODELS[recipe.name]
    known = [n for n, p in inspect.signature(maker).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    check_options(maker, recipe.options, f"model {recipe.name}", known)
    try:
        network = maker(shape, classes, **recipe.options)
    except TypeError as error:
        raise UserError(f"model {recipe.name}: {error}") from None
    return Heads(network) if heads else network


def parts_of(model: nn.Module) -> dict[str, Any]:
    """Return a network and its parts, by the names that Avalanche's templates, plugins and modules give them.

    A network without a last layer of its own (heads for known tasks, a class given by ``use``) has no parts.
    """
    whole = {"model": model, "wrappee": model}
    if not isinstance(model, Network):
        return whole
    features, last = model[:-1], model[-1]
    return whole | {
        "feature_extractor": features,
        "slda_model": features,
        "classifier": last,
        "train_classifier": last,
        "projection": last,
        "last_layer_name": str(len(model) - 1),
        "input_size": last.in_features,
        "num_classes": last.out_features,
    }


def build_optimizer(recipe: Buildable, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer over a model's parameters."""
    optimizer: torch.optim.Optimizer = build(recipe, torch.optim.Optimizer, "optimizer", model.parameters())
    return optimizer
