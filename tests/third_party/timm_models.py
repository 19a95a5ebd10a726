"""Of timm, their smallest ones cut down by options."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

from third_party.cases import CLASSES, Case, images
from torch import nn


def _of(name: str, **options: Any) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, pretrained=False, num_classes=CLASSES, **options)
    return model


def _class(path: str, **options: Any) -> nn.Module:
    """Return a model by the module and name of its class, where the names of ``create_model`` fix its sizes."""
    module, name = path.split(".")
    model: nn.Module = getattr(import_module(f"timm.models.{module}"), name)(num_classes=CLASSES, **options)
    return model


def _poolformer() -> nn.Module:
    from timm.models.metaformer import GroupNorm1

    options: dict[str, Any] = {"downsample_norm": None, "norm_layers": GroupNorm1, "use_mlp_head": False}
    return _class("metaformer.MetaFormer", depths=(1, 1), dims=(8, 12), layer_scale_init_values=0.1, **options)


def _resmlp() -> nn.Module:
    from timm.models.mlp_mixer import Affine, ResBlock

    return _class("mlp_mixer.MlpMixer", **MIXER, mlp_ratio=2, block_layer=ResBlock, norm_layer=Affine)


def _resnetv2() -> nn.Module:
    from timm.layers import GroupNormAct

    norm = partial(GroupNormAct, num_groups=4)
    return _class("resnetv2.ResNetV2", layers=(1, 1), channels=(16, 32), stem_chs=8, norm_layer=norm)


def _mobilevit() -> nn.Module:
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg

    sizes = {"transformer_dim": 8, "transformer_depth": 1, "patch_size": 2}
    blocks = (
        ByoBlockCfg(type="bottle", d=1, c=8, s=2, gs=1, br=2.0, block_kwargs={"bottle_in": True, "linear_out": True}),
        ByoBlockCfg(type="mobilevit", d=1, c=8, s=1, block_kwargs=sizes),
    )
    return ByobNet(
        ByoModelCfg(blocks=blocks, stem_chs=8, stem_type="3x3", stem_pool="", downsample="", num_features=12), CLASSES
    )


VIT: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "depth": 2, "num_heads": 2}
MIXER: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "num_blocks": 2}
FOUR: dict[str, Any] = {"depths": (1, 1, 1, 1), "dims": (4, 6, 8, 8)}
GHOST = [[[3, 16, 16, 0, 1]], [[3, 48, 24, 0.25, 2]], [[3, 72, 24, 0, 1]]]

CASES: dict[str, Case] = {
    "ViT": Case(lambda: _of("vit_tiny_patch16_224", **VIT, drop_path_rate=0.2), images(16)),
    "DeiT": Case(lambda: _of("deit_tiny_distilled_patch16_224", **VIT), images(16)),
    "DeiT III": Case(lambda: _of("deit3_small_patch16_224", **VIT), images(16)),
    "ConvNeXt": Case(lambda: _of("convnext_atto", **FOUR, drop_path_rate=0.2), images(32)),
    "ConvNeXtV2": Case(lambda: _of("convnextv2_atto", **FOUR), images(32)),
    "EdgeNeXt": Case(lambda: _class("edgenext.EdgeNeXt", **FOUR | {"dims": (8, 12, 12, 16)}, heads=(2, 2, 2, 2)), images(32)),
    "MLP-Mixer": Case(lambda: _class("mlp_mixer.MlpMixer", **MIXER), images(16)),
    "ResMLP": Case(_resmlp, images(16)),
    "XCiT": Case(lambda: _of("xcit_nano_12_p16_224", **VIT | {"img_size": 32, "patch_size": 16}), images(32)),
    "LeViT": Case(lambda: _of("levit_128s", img_size=32, embed_dim=(16, 24), key_dim=8, num_heads=(1, 2), depth=(1, 1)), images(32)),
    "MobileViT": Case(_mobilevit, images(32)),
    "CaiT": Case(lambda: _of("cait_xxs24_224", **VIT), images(16)),
    "BEiT": Case(lambda: _of("beit_base_patch16_224", **VIT), images(16)),
    "PoolFormer": Case(_poolformer, images(32)),
    "GhostNet": Case(lambda: _class("ghostnet.GhostNet", cfgs=GHOST, width=0.4), images(32)),
    "RepViT": Case(lambda: _of("repvit_m0_9", embed_dim=(8, 12), depth=(1, 1)), images(32)),
    "ResNetV2": Case(_resnetv2, images(32)),
}  # fmt: skip
