"""The networks that a benchmark recipe can name; ``use = "module:Class"`` takes any other.

Nothing heavy is imported here, so that they can be listed fast.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MODELS", "ModelEntry"]


@dataclass(frozen=True)
class ModelEntry:
    """A line of the registry.

    Attributes:
        description: One line for people.
        use: ``module:function``, which takes ``shape`` and ``classes``, and keyword-only options.
    """

    description: str
    use: str


MODELS: dict[str, ModelEntry] = {
    "mlp": ModelEntry("ReLU layers on flattened images; hidden = [100, 100]", f"{__name__}.networks:mlp"),
    "cnn": ModelEntry(
        "convolutions with a max pooling after each; channels = [8, 16], kernel, pool, hidden",
        f"{__name__}.networks:cnn",
    ),
    "slim-resnet18": ModelEntry(
        "GEM's ResNet-18 of a third of the width, 1.1 M parameters; channels = 20", f"{__name__}.resnet:slim_resnet18"
    ),
    "resnet18": ModelEntry(
        "ResNet-18 with a stem for small images, 11.2 M parameters; channels = 64", f"{__name__}.resnet:resnet18"
    ),
    "vit-tiny": ModelEntry(
        "vision transformer for small images, 2.7 M parameters; patch = 4, width = 192, depth = 6, attention_heads = 3",
        f"{__name__}.vit:vit_tiny",
    ),
}
"""The networks, by name."""
