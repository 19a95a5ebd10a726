"""Of peft, around models of transformers."""

from __future__ import annotations

from typing import Any

from third_party.cases import Case, texts
from third_party.transformers_models import CASES as TRANSFORMERS
from torch import nn


def _adapted(base: str, kind: str = "LoraConfig", **options: Any) -> nn.Module:
    import peft

    config = getattr(peft, kind)(task_type="SEQ_CLS", **options)
    model: nn.Module = peft.get_peft_model(TRANSFORMERS[base].make(), config)
    return model


CASES: dict[str, Case] = {
    "LoRA of Bert": Case(lambda: _adapted("Bert", r=2, lora_dropout=0.1, init_lora_weights=False), texts),
    "LoRA of GPT2": Case(lambda: _adapted("GPT2", r=2, fan_in_fan_out=True, init_lora_weights=False), texts),
    "LoRA of words": Case(
        lambda: _adapted("Bert", r=2, target_modules=["word_embeddings", "query"], init_lora_weights=False), texts
    ),
    "DoRA of Bert": Case(lambda: _adapted("Bert", r=2, use_dora=True, init_lora_weights=False), texts, order=1),
    "IA3 of Bert": Case(lambda: _adapted("Bert", "IA3Config"), texts),
    "prompts of Bert": Case(lambda: _adapted("Bert", "PromptTuningConfig", num_virtual_tokens=2), texts),
}
