"""Models that nobody here wrote, at random weights and small sizes, each with a batch that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ong.curvature import Batch, Forward

EXAMPLES, CLASSES = 5, 3
WORDS, LENGTH = 17, 5


class Case(NamedTuple):
    """A model and what it is fed.

    Attributes:
        make: returns the model.
        batch: returns the examples and labels of a task.
        logits: from model and batch to outputs, where these are not what the model returns.
        length: of a plain step in the second task.
        order: of the change that a method leaves to stored outputs; 1 where the model detaches what they depend on.
    """

    make: Callable[[], nn.Module]
    batch: Callable[[torch.Generator], Batch]
    logits: Callable[[nn.Module, Batch], Tensor] | None = None
    length: float = 1e-5
    order: int = 2

    def forward(self, model: nn.Module) -> Forward | None:
        """What ``logits=`` is for the model."""
        function = self.logits
        return None if function is None else lambda batch: function(model, batch)


def labels(generator: torch.Generator) -> Tensor:
    return torch.randint(0, CLASSES, (EXAMPLES,), generator=generator)


def images(pixels: int, channels: int = 3) -> Callable[[torch.Generator], Batch]:
    def batch(generator: torch.Generator) -> Batch:
        shape = (EXAMPLES, channels, pixels, pixels)
        return [torch.randn(shape, generator=generator, dtype=torch.float64), labels(generator)]

    return batch


def texts(generator: torch.Generator) -> Batch:
    """Words of which the last ones of some texts are padding."""
    words = torch.randint(1, WORDS, (EXAMPLES, LENGTH), generator=generator)
    mask = torch.ones_like(words)
    for text in range(1, EXAMPLES, 2):
        mask[text, LENGTH - 1 - text // 2 :] = 0
    return {"input_ids": words * mask, "attention_mask": mask, "labels": labels(generator)}


def whole_texts(generator: torch.Generator) -> Batch:
    """Words without a mask."""
    return {"input_ids": torch.randint(1, WORDS, (EXAMPLES, LENGTH), generator=generator), "labels": labels(generator)}


def sequences(features: int) -> Callable[[torch.Generator], Batch]:
    def batch(generator: torch.Generator) -> Batch:
        x = torch.randn(EXAMPLES, LENGTH, features, generator=generator, dtype=torch.float64)
        return [x, labels(generator)]

    return batch


def pixel_values(pixels: int) -> Callable[[torch.Generator], Batch]:
    def batch(generator: torch.Generator) -> Batch:
        x, y = images(pixels)(generator)
        return {"pixel_values": x, "labels": y}

    return batch


def drawn(case: Case) -> nn.Module:
    """Return the model in float64, every weight drawn anew, as some libraries start blocks or heads at zero."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = case.make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter += 0.2 * noise
    return model


class Pooled(nn.Module):
    """A third party's encoder ``[N, T, features]``, and a classifier of the mean over T."""

    def __init__(self, encoder: nn.Module, features: int) -> None:
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(features, CLASSES)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        found: Any = self.encoder(*args, **kwargs)
        hidden = getattr(found, "last_hidden_state", found[0] if isinstance(found, tuple) else found)
        logits: Tensor = self.head(hidden.mean(1))
        return logits
