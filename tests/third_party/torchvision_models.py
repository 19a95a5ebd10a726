"""Of torchvision.models, their classes with few channels and blocks."""

from __future__ import annotations

from functools import partial
from typing import Any

from third_party.cases import CLASSES, Case, images
from torch import nn


def _resnet() -> nn.Module:
    from torchvision.models.resnet import BasicBlock, ResNet

    model = ResNet(BasicBlock, [1, 1, 1, 1])
    model.layer3 = model.layer4 = nn.Identity()  # 256 and 512 channels
    model.fc = nn.Linear(128, CLASSES)
    return model


def _resnext() -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(Bottleneck, [2, 1, 1, 1], groups=4, width_per_group=4)
    model.layer3 = model.layer4 = nn.Identity()
    model.fc = nn.Linear(512, CLASSES)
    return model


def _densenet(**options: Any) -> nn.Module:
    from torchvision.models import DenseNet

    return DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=CLASSES, **options)


def _mobilenet_v2() -> nn.Module:
    from torchvision.models import MobileNetV2

    model = MobileNetV2(CLASSES, 0.05, [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]])
    model.features, model.classifier = model.features[:-1], nn.Linear(8, CLASSES)  # without one to 1,280 channels
    return model


def _mobilenet_v3() -> nn.Module:
    from torchvision.models import MobileNetV3
    from torchvision.models.mobilenetv3 import InvertedResidualConfig

    setting = [(16, 3, 16, 16, True, "RE", 2, 1), (16, 3, 24, 24, False, "RE", 1, 1), (24, 5, 32, 24, True, "HS", 1, 2)]
    return MobileNetV3([InvertedResidualConfig(*row, 0.5) for row in setting], 32, CLASSES)


def _efficientnet() -> nn.Module:
    from torchvision.models import EfficientNet
    from torchvision.models.efficientnet import FusedMBConvConfig, MBConvConfig

    setting = [FusedMBConvConfig(2, 3, 1, 8, 8, 2), MBConvConfig(3, 3, 2, 8, 16, 2)]
    return EfficientNet(setting, 0.2, 0.2, CLASSES, partial(nn.BatchNorm2d, eps=1e-3), 24)


def _shufflenet() -> nn.Module:
    from torchvision.models import ShuffleNetV2

    return ShuffleNetV2([2, 1, 1], [8, 16, 16, 24, 32], CLASSES)


def _squeezenet() -> nn.Module:
    from torchvision.models import SqueezeNet

    model = SqueezeNet("1_1", CLASSES)
    model.classifier[2] = nn.Identity()  # a ReLU of the logits, most of which random weights make 0
    return model


def _vgg() -> nn.Module:
    from torchvision.models.vgg import VGG, make_layers

    model = VGG(make_layers([8, "M", 16, 16, "M", 16, "M"], batch_norm=True), CLASSES)
    model.avgpool, model.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Dropout(), nn.Linear(16, CLASSES))
    return model


def _convnext() -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], 0.2, 0.5, CLASSES)


def _swin(version: int) -> nn.Module:
    from torchvision.models import SwinTransformer
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlock, SwinTransformerBlockV2

    options = (
        {"block": SwinTransformerBlock}
        if version == 1
        else {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    )
    return SwinTransformer([2, 2], 8, [2, 1], [2, 2], [2, 2], 2.0, num_classes=CLASSES, **options)


def _vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, 2, 2, 12, 16, 0.1, num_classes=CLASSES)


def _maxvit() -> nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((16, 16), 8, 2, [8, 12], [1, 1], 4, 0.2, num_classes=CLASSES)


def _regnet() -> nn.Module:
    from torchvision.models import RegNet
    from torchvision.models.regnet import BlockParams

    return RegNet(BlockParams([1, 2], [8, 16], [4, 8], [1.0, 1.0], [2, 2], 0.25), CLASSES, 8)


def _mnasnet() -> nn.Module:
    from torchvision.models import MNASNet

    model = MNASNet(0.1, CLASSES)
    model.layers = model.layers[:12]  # without a convolution to 1,280 channels
    model.classifier[1] = nn.Linear(16, CLASSES)
    return model


CASES: dict[str, Case] = {
    "ResNet": Case(_resnet, images(24)),
    "ResNeXt": Case(_resnext, images(24)),
    "DenseNet": Case(_densenet, images(32)),
    "DenseNet with checkpoints": Case(lambda: _densenet(memory_efficient=True), images(32)),
    "MobileNetV2": Case(_mobilenet_v2, images(32)),
    "MobileNetV3": Case(_mobilenet_v3, images(32)),
    "EfficientNet": Case(_efficientnet, images(24)),
    "ShuffleNetV2": Case(_shufflenet, images(32)),
    "SqueezeNet": Case(_squeezenet, images(32)),
    "VGG with batch normalisation": Case(_vgg, images(16)),
    "ConvNeXt": Case(_convnext, images(16)),
    "Swin": Case(lambda: _swin(1), images(16)),
    "SwinV2": Case(lambda: _swin(2), images(16)),
    "ViT": Case(_vit, images(16)),
    "MaxVit": Case(_maxvit, images(16)),
    "RegNet": Case(_regnet, images(24)),
    "MNASNet": Case(_mnasnet, images(32)),
}
