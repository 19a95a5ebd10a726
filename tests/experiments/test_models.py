"""The networks by name against their sources, networks by ``use``, and heads around any of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from avalanche.models import IncrementalClassifier, MultiTaskModule, SlimResNet18
from torch import Tensor, nn

from ong.errors import UserError
from ong.experiments.models import MODELS
from ong.experiments.models.build import build_model, parts_of
from ong.experiments.schema import ModelRecipe
from ong.streams.benchmark import TaskData, benchmark_from_tensors

RGB = (3, 32, 32)


def made(shape: tuple[int, ...] = RGB, classes: int = 10, *, heads: bool = False, **recipe: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelRecipe(**recipe), shape, classes, heads=heads)


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def with_weights_of(theirs: nn.Module, ours: nn.Module) -> nn.Module:
    """Return their network with our weights, matched in order; running statistics are drawn anew."""
    for name, buffer in ours.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.uniform_(0.5, 1.5)
    values = ours.state_dict().values()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), values, strict=True)))
    return theirs


def test_resnet18_is_torchvisions_with_a_stem_for_small_images() -> None:
    ours, theirs = made(name="resnet18").double(), torchvision.models.resnet18(num_classes=10).double()
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False).double(), nn.Identity()
    assert parameters(ours) == 11_173_962  # 11.2 M, as published for CIFAR-10
    with_weights_of(theirs, ours)
    x = torch.randn(2, *RGB, dtype=torch.float64)
    for model in (ours, theirs):
        model.eval()
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_slim_resnet18_is_that_of_gem() -> None:
    ours, theirs = made(name="slim-resnet18").double(), SlimResNet18(10).double()
    with_weights_of(theirs, ours)
    x = torch.randn(2, *RGB, dtype=torch.float64)
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), rtol=1e-12, atol=1e-12)
    assert 1_090_000 < parameters(ours) < 1_110_000


def test_vit_tiny_is_torchvisions_vision_transformer() -> None:
    ours = made(name="vit-tiny", depth=2).double()
    theirs = torchvision.models.VisionTransformer(
        image_size=32, patch_size=4, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768, num_classes=10
    ).double()
    for block in ours.children():  # theirs has these in another order
        for name, p in block.named_parameters():
            nn.init.normal_(p, std=0.05) if "norm" not in name else nn.init.normal_(p, 1, 0.1)
    state = dict(ours.state_dict())
    renamed = {
        "class_token": "0.class_token", "encoder.pos_embedding": "0.positions",
        "conv_proj.weight": "0.patches.weight", "conv_proj.bias": "0.patches.bias",
    }  # fmt: skip
    parts = {
        "ln_1.": "norm1.", "ln_2.": "norm2.", "self_attention.in_proj_": "attention.qkv.",
        "self_attention.out_proj.": "attention.out.", "mlp.0.": "mlp.0.", "mlp.3.": "mlp.2.",
    }  # fmt: skip
    for layer in range(2):
        for name, own in parts.items():
            for kind in ("weight", "bias"):
                renamed[f"encoder.layers.encoder_layer_{layer}.{name}{kind}"] = f"{layer + 1}.{own}{kind}"
    for kind in ("weight", "bias"):
        renamed |= {f"encoder.ln.{kind}": f"3.{kind}", f"heads.head.{kind}": f"5.{kind}"}
    theirs.load_state_dict({name: state[own] for name, own in renamed.items()})
    x = torch.randn(2, *RGB, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs.eval()(x), rtol=1e-10, atol=1e-10)


def test_vit_tiny_has_its_published_size_and_only_plain_layers() -> None:
    model = made(name="vit-tiny")
    assert 2_650_000 < parameters(model) < 2_750_000
    assert model[0].positions.shape == (1, 65, 192)
    assert not any(isinstance(module, nn.MultiheadAttention) for module in model.modules())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"name": "resnet18", "channels": 0}, "channels and blocks must be at least 1"),
        ({"name": "vit-tiny", "patch": 5}, "patch = 5 does not divide images of 32 × 32"),
        ({"name": "vit-tiny", "width": 100}, "attention_heads divide width"),
        ({"name": "resnet", "channels": 4}, "unknown model 'resnet'; did you mean 'resnet18'"),
        ({"name": "resnet18", "chanels": 4}, "option of model resnet18 'chanels'; did you mean 'channels'"),
        ({"name": "resnet18", "channels": "4"}, "'channels': Input should be a valid integer"),
        ({}, "give either 'name' .* or 'use'"),
        ({"name": "mlp", "hidden": [4], "head": "growing", "heads": True}, "scenario 'task' has a head a task"),
    ],
)
def test_what_is_wrong_with_a_model_is_said(recipe: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(**recipe)


def test_every_model_has_a_line_and_takes_small_grey_images() -> None:
    for name, entry in MODELS.items():
        assert "\n" not in entry.description
        options = (
            {"hidden": [4]}
            if name == "mlp"
            else {"depth": 1}
            if name == "vit-tiny"
            else {"channels": [2, 2]}
            if name == "cnn"
            else {"channels": 2}
        )
        assert made((1, 8, 8), 3, name=name, **options)(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("torchvision.models:mobilenet_v3_small", {}),  # takes any option
        (
            "torchvision.models:VisionTransformer",
            {"patch_size": 8, "num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8},
        ),
        ("torchvision.models:squeezenet1_1", {}),  # ends in a convolution
        ("avalanche.models:SlimResNet18", {"nf": 2}),  # nclasses
        ("avalanche.models:SimpleCNN", {}),
    ],
)
def test_networks_of_others_get_their_sizes(use: str, options: dict[str, Any]) -> None:
    assert made(use=use, classes=7, **options).eval()(torch.zeros(2, *RGB)).shape == (2, 7)


class Mine(nn.Module):
    def __init__(self, shape: tuple[int, int, int], num_labels: int, width: int = 4, shift: float = 0.0) -> None:
        super().__init__()
        self.body, self.shift = (
            nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], width), nn.ReLU()),
            shift,
        )
        self.out = nn.Linear(width, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        return self.out(features) + self.shift if self.shift else self.out(features)


class Few(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        return self.out(x.flatten(1))


class Odd(Few):
    def forward(self, x: Tensor) -> Any:
        return {"logits": self.out(x.flatten(1))}


def mine(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, classes))


def nothing(classes: int) -> int:
    return classes


HERE = f"{__name__}:"


@pytest.mark.parametrize("name", ["Mine", "mine"])
def test_networks_of_ones_own_may_be_classes_or_functions(name: str) -> None:
    assert made((1, 2, 2), 5, use=HERE + name)(torch.zeros(2, 1, 2, 2)).shape == (2, 5)


@pytest.mark.parametrize(
    ("recipe", "shape", "message"),
    [
        ({"use": HERE + "Few"}, (1, 2, 2), "has 3 outputs, expected 10, one a class"),
        ({"use": HERE + "Few"}, (1, 3, 3), "model Few does not take images of 1 × 3 × 3 numbers: mat1 and mat2"),
        ({"use": HERE + "Odd"}, (1, 2, 2), r"model Odd gives dict for two images, expected a tensor \(2, number"),
        ({"use": HERE + "nothing"}, (1, 2, 2), "made a int, expected a Module"),
        ({"use": HERE + "Mine", "widht": 3}, (1, 2, 2), "option of model Mine 'widht'; did you mean 'width'"),
        ({"use": HERE + "Mines"}, (1, 2, 2), "did you mean 'Mine'"),
        ({"use": "torchvision.models:resnet18", "num_classes": 3}, RGB, "has 3 outputs, expected 10"),
        ({"use": "torchvision.models:resnet18"}, (1, 32, 32), "model ResNet does not take images of 1 × 32 × 32"),
        ({"use": HERE + "Mine", "shift": 1.0, "heads": True}, (1, 2, 2), "Mine does not end in a linear layer"),
    ],
)
def test_networks_that_do_not_fit_are_named(recipe: dict[str, Any], shape: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(shape, **recipe)


def experiences(task_aware: bool, labels: tuple[list[int], ...]) -> Any:
    parts = [TaskData(*[(torch.zeros(len(y), 1, 2, 2), torch.tensor(y))] * 2) for y in labels]
    return benchmark_from_tensors(parts, task_aware=task_aware).train_stream


@pytest.mark.parametrize(
    "recipe",
    [
        {"use": HERE + "Mine"},
        {"name": "mlp", "hidden": [4]},
        {"use": "torchvision.models:mobilenet_v3_small"},
        {"name": "slim-resnet18", "channels": 2},
    ],
    ids=["own", "mlp", "mobilenet", "resnet"],
)
def test_any_network_gets_a_head_a_task(recipe: dict[str, Any]) -> None:
    shape = RGB if "mobilenet" in str(recipe) else (1, 2, 2)
    plain, model = made(shape, 3, **recipe).eval(), made(shape, 3, heads=True, **recipe).eval()
    assert isinstance(model, MultiTaskModule)
    for experience in experiences(True, ([0, 1], [0, 2])):
        model.pre_adapt(None, experience)
    last = list(plain.modules())[-1]
    x, labels = torch.randn(4, *shape), torch.tensor([0, 1, 1, 0])
    seen: list[Tensor] = []
    last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    plain(x)
    for row, task in enumerate(labels.tolist()):  # the same body, drawn alike, and each row's own head
        head = model.heads.classifiers[str(task)].classifier
        torch.testing.assert_close(model(x, labels)[row], head(seen[0])[row])


def test_a_growing_head_masks_classes_that_no_task_has_brought() -> None:
    model = made((1, 2, 2), 6, name="mlp", hidden=[4], head="growing")
    assert isinstance(model[-1], IncrementalClassifier)
    first, second = experiences(False, ([0, 1], [2, 3, 5]))
    counts = []
    for experience in (first, second):
        model.train()
        for module in model.modules():
            if hasattr(module, "adaptation"):
                module.adaptation(experience)
        counts.append((model(torch.randn(2, 1, 2, 2))[0] > -1000).tolist())
    assert counts == [[True, True], [True, True, True, True, False, True]]
    assert parts_of(model).keys() == {"model", "wrappee"}
