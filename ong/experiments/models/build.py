"""From a recipe's ``model`` table to a network of the right size."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from avalanche.models import DynamicModule, MultiTaskModule
from torch import nn

from ong.errors import UnknownNameError, UserError
from ong.experiments.build import build, resolve
from ong.experiments.models import MODELS
from ong.experiments.models.heads import Heads, growing, trial
from ong.experiments.models.networks import Network
from ong.experiments.options import check_options
from ong.experiments.schema import Buildable, ModelRecipe

__all__ = ["build_model", "parts_of"]

_OF_CLASSES = ("classes", "num_classes", "n_classes", "nclasses", "num_labels")
_OF_CHANNELS = ("in_channels", "in_chans", "num_channels")
_OF_SIDE = ("image_size", "img_size")


def build_model(recipe: ModelRecipe, shape: Sequence[int], classes: int, *, heads: bool = False) -> nn.Module:
    """Build a benchmark's network with the global generator as it stands.

    A class or function given by ``use`` gets the sizes that it has parameters for: ``shape`` (channels, height, width),
    the number of classes (``classes``, ``num_classes``, ``n_classes``, ``nclasses`` or ``num_labels``), of channels
    (``in_channels``, ``in_chans``, ``num_channels``), and the width of square images (``image_size``, ``img_size``).
    One that takes any option (``**kwargs``), as torchvision's and timm's do, gets ``num_classes``. The recipe's options
    win.

    Args:
        recipe: the benchmark's.
        shape: channels, height, width.
        classes: outputs, of a head where there is one a task.
        heads: whether tasks are labelled, so that there is one a task.

    Raises:
        UserError: neither or both of ``name`` and ``use``, an unknown name or option; a network that does not take such
            images, has too few outputs, or no last layer that could be replaced where heads are wanted.
    """
    if (recipe.name is None) == (recipe.use is None):
        raise UserError("model: give either 'name' (a built-in network) or 'use' ('module:Class')")
    model = _named(recipe, shape, classes) if recipe.name is not None else _used(recipe, shape, classes)
    if recipe.head == "growing":
        if heads:
            raise UserError(
                "model: head = 'growing' is for tasks that are not known; scenario 'task' has a head a task"
            )
        return growing(model, shape)
    return Heads(model, shape) if heads and not isinstance(model, MultiTaskModule) else model


def _named(recipe: ModelRecipe, shape: Sequence[int], classes: int) -> nn.Module:
    assert recipe.name is not None
    if recipe.name not in MODELS:
        raise UnknownNameError("model", recipe.name, MODELS)
    maker: Callable[..., Network] = resolve(MODELS[recipe.name].use, nn.Module, "model", functions=True)
    known = [n for n, p in inspect.signature(maker).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    check_options(maker, recipe.options, f"model {recipe.name}", known)
    try:
        network: nn.Module = maker(shape, classes, **recipe.options)
    except TypeError as error:
        raise UserError(f"model {recipe.name}: {error}") from None
    return network


def _used(recipe: ModelRecipe, shape: Sequence[int], classes: int) -> nn.Module:
    assert recipe.use is not None
    maker = resolve(recipe.use, nn.Module, "model", functions=True)
    sizes: dict[str, Any] = {"shape": tuple(shape)} | dict.fromkeys(_OF_CLASSES, classes)
    sizes |= dict.fromkeys(_OF_CHANNELS, shape[0]) | dict.fromkeys(_OF_SIDE, shape[-1])
    parameters = inspect.signature(maker).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and not parameters.keys() & set(_OF_CLASSES)
    part = Buildable(use=recipe.use, **({"num_classes": classes} if open_ended else {}) | recipe.options)
    model: nn.Module = build(part, nn.Module, "model", functions=True, **sizes)
    takes_labels = isinstance(model, MultiTaskModule)  # and makes heads of its own
    outputs = classes if takes_labels else trial(model, shape).shape[1]
    if outputs < classes and not any(isinstance(module, DynamicModule) for module in model.modules()):
        raise UserError(
            f"model {recipe.use} has {outputs} outputs, expected {classes}, one a class; give its class a parameter "
            "'classes', or set the option that it has for them"
        )
    return model


def parts_of(model: nn.Module) -> dict[str, Any]:
    """Return a network and its parts, by the names that Avalanche's templates, plugins and modules give them.

    A network without a plain last layer of its own (heads, a class given by ``use``) has no parts.
    """
    whole = {"model": model, "wrappee": model}
    if not isinstance(model, Network) or not isinstance(model[-1], nn.Linear):
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
