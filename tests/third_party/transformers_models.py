"""Of transformers, from configurations made here."""

from __future__ import annotations

from typing import Any

import torch
from third_party.cases import CLASSES, LENGTH, WORDS, Case, pixel_values, texts
from torch import nn

from ong.curvature import Batch

SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": LENGTH + 3,
    "pad_token_id": 0,
}
DECODER: dict[str, Any] = SIZES | {"num_key_value_heads": 1, "head_dim": 4}
ROUNDED = 2e-2
"""Of a step, where a model normalises in float32 whatever its dtype."""
EXPERTS: dict[str, Any] = {
    "num_experts": 3,
    "num_local_experts": 3,
    "num_experts_per_tok": 2,
    "experts_implementation": "eager",
}


def _of(name: str, task: str = "SequenceClassification", **options: Any) -> nn.Module:
    import transformers

    config = getattr(transformers, f"{name}Config")(num_labels=CLASSES, **options)
    model: nn.Module = getattr(transformers, f"{name}For{task}")(config)
    return model


def _image(name: str, **options: Any) -> nn.Module:
    sizes = {
        key: SIZES[key] for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    }
    return _of(name, "ImageClassification", **{"image_size": 8, "patch_size": 4} | sizes | options)


def _ended_texts(generator: torch.Generator) -> Batch:
    """Words up to the one that ends a text, which T5 classifies by."""
    batch = texts(generator)
    words = batch["input_ids"].clamp_min(2) * batch["attention_mask"]
    last = batch["attention_mask"].sum(1, keepdim=True) - 1
    return batch | {"input_ids": words.scatter(1, last, 1)}


CASES: dict[str, Case] = {
    "Bert": Case(lambda: _of("Bert", **SIZES), texts),
    "DistilBert": Case(lambda: _of("DistilBert", vocab_size=WORDS, dim=8, n_layers=2, n_heads=2, hidden_dim=12, max_position_embeddings=LENGTH), texts),
    "Roberta": Case(lambda: _of("Roberta", **SIZES), texts),
    "Albert": Case(lambda: _of("Albert", **SIZES, embedding_size=6), texts),
    "Electra": Case(lambda: _of("Electra", **SIZES, embedding_size=6), texts),
    "DebertaV2": Case(lambda: _of("DebertaV2", **SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4, norm_rel_ebd="layer_norm", share_att_key=True), texts),
    "GPT2": Case(lambda: _of("GPT2", vocab_size=WORDS, n_embd=8, n_layer=2, n_head=2, n_positions=LENGTH, pad_token_id=0), texts),
    "T5": Case(lambda: _of("T5", vocab_size=WORDS, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2, relative_attention_num_buckets=4, relative_attention_max_distance=8, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0), _ended_texts, length=ROUNDED),
    "Llama": Case(lambda: _of("Llama", **DECODER), texts, length=ROUNDED),
    "Qwen2": Case(lambda: _of("Qwen2", **SIZES, num_key_value_heads=1), texts, length=ROUNDED),
    "Gemma2": Case(lambda: _of("Gemma2", **DECODER, query_pre_attn_scalar=4, sliding_window=3), texts, length=ROUNDED),
    "Mixtral": Case(lambda: _of("Mixtral", **DECODER, **EXPERTS), texts, length=ROUNDED),
    "ViT": Case(lambda: _image("ViT"), pixel_values(8)),
    "Dinov2": Case(lambda: _image("Dinov2"), pixel_values(8)),
    "MobileNetV1": Case(lambda: _of("MobileNetV1", "ImageClassification", depth_multiplier=0.02), pixel_values(32), length=1e-4),
}  # fmt: skip
