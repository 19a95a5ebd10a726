"""A small BERT with LoRA learns to tell good reviews from bad ones in three domains, one after the other.

transformers' Trainer trains it, with AdamW. Two runs stand side by side: without a method, and with ONGPrior.

    pip install 'ong[transformers]' peft
    python bert_with_lora.py
    python bert_with_lora.py --model bert-base-uncased --files films.tsv food.tsv travel.tsv

A line of a file is 0 or 1, a tabulator and a text.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

import ong
from ong.integrations.transformers import MethodCallback

Text = tuple[int, str]
DOMAINS = {
    "films": (["moving", "funny", "clever"], ["long", "loud", "dull"]),
    "food": (["hot", "fresh", "sweet"], ["cold", "burnt", "salty"]),
    "travel": (["sunny", "quiet", "cheap"], ["rainy", "crowded", "late"]),
}
"""Words of praise and of blame."""
OTHERS = ["the", "a", "was", "it", "and", "very", "we", "had", "so", "this"]
LENGTH = 5


def written(domain: str, count: int, seed: int) -> list[Text]:
    """Return reviews made up of the domain's name, one telling word and others."""
    draw = random.Random(f"{domain} {seed}")
    found = []
    for i in range(count):
        words = [domain, draw.choice(DOMAINS[domain][i % 2]), *draw.choices(OTHERS, k=LENGTH - 3)]
        draw.shuffle(words)
        found.append((1 - i % 2, " ".join(words)))
    return found


def read(file: Path) -> list[Text]:
    """Return the labels and texts of a file."""
    rows = [line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if line]
    return [(int(label), text) for label, text in rows]


def by_word(texts: list[str]) -> dict[str, torch.Tensor]:
    """Return the numbers of words, for a BERT that is made here."""
    words = [*DOMAINS, *sorted({word for pair in DOMAINS.values() for part in pair for word in part}), *OTHERS]
    numbers = {word: number for number, word in enumerate(words, start=1)}
    return {"input_ids": torch.tensor([[numbers[word] for word in text.split()] for text in texts])}


def new_model(name: str | None) -> tuple[torch.nn.Module, Callable[[list[str]], Any]]:
    """Return a BERT of which adapters and the classifier are trained, and its tokenizer."""
    if name is None:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.BertConfig(vocab_size=32, max_position_embeddings=LENGTH, num_labels=2, **sizes)
        config.initializer_range = 0.2
        bert, tokens = transformers.BertForSequenceClassification(config), by_word
    else:
        bert = transformers.AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name)
        options = {"padding": "max_length", "truncation": True, "max_length": 128, "return_tensors": "pt"}
        tokens = partial(tokenizer, **options)
    lora = LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=["query", "value", "dense"])
    return get_peft_model(bert, lora), tokens


def rows(texts: list[Text], tokens: Callable[[list[str]], Any]) -> list[dict[str, Any]]:
    """Return examples as the Trainer takes them."""
    found = tokens([text for _, text in texts])
    return [{key: part[i] for key, part in found.items()} | {"labels": texts[i][0]} for i in range(len(texts))]


def run(name: str, callbacks: list[Any], options: argparse.Namespace) -> None:
    """Train on all domains in turn, and print the accuracy on each at the end."""
    transformers.set_seed(options.seed)
    model, tokens = new_model(options.model)
    if options.files:
        texts = {file.stem: read(file) for file in options.files}
        stream = {name: (found[: -len(found) // 5], found[-len(found) // 5 :]) for name, found in texts.items()}
    else:
        stream = {name: (written(name, options.texts, 0), written(name, 200, 1)) for name in DOMAINS}
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder, num_train_epochs=options.epochs, learning_rate=options.rate, lr_scheduler_type="constant",
            per_device_train_batch_size=16, save_strategy="no", report_to="none", disable_tqdm=True, seed=options.seed,
            dataloader_pin_memory=False,
        )  # fmt: skip
        for train, _ in stream.values():
            trainer = transformers.Trainer(model, arguments, train_dataset=rows(train, tokens), callbacks=callbacks)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
        found = []
        for _, test in stream.values():
            answers = trainer.predict(rows(test, tokens))
            found.append(float((answers.predictions.argmax(1) == answers.label_ids).mean()))
    each = "  ".join(f"{domain} {share:.3f}" for domain, share in zip(stream, found, strict=True))
    print(f"{name:10}{each}  mean {sum(found) / len(found):.3f}")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a pretrained model; a small BERT of random weights if not given")
    parser.add_argument("--files", type=Path, nargs="+", help="one file a task, in order; made-up reviews if not given")
    parser.add_argument("--texts", type=int, default=400, help="made-up reviews a task (default 400)")
    parser.add_argument("--epochs", type=int, default=5, help="of each task (default 5)")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate (default 0.01)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="200 reviews a task, in seconds")
    options = parser.parse_args()
    if options.tiny:
        options.texts = 200
    transformers.logging.set_verbosity_error()
    run("naive", [], options)
    method = ong.methods.ONGPrior(damping=0.1, directions_per_task=100, examples_per_task=200)
    run("ONGPrior", [MethodCallback(method, tasks=3)], options)


if __name__ == "__main__":
    main()
