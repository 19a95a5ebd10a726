"""The same tiny BERT on the same batches in four training loops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ong.methods import EWC, OGD, Method, ONGPrior, ONGReplay

EXAMPLES, BATCH, EPOCHS, LENGTH, WORDS, CLASSES = 12, 4, 2, 4, 7, 3

METHODS: dict[str, Callable[[], Method]] = {
    "OGD": lambda: OGD(directions_per_task=5, seed=3),
    "ONGPrior": lambda: ONGPrior(directions_per_task=5, examples_per_task=10, damping=0.1, pull=0.1, seed=3),
    "ONGReplay": lambda: ONGReplay(examples=8, replay_batch=4, alpha=0.1, seed=3),
    "EWC": lambda: EWC(strength=50.0, examples_per_task=10, fisher="mc", seed=3),
}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.3),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.02),
}


def bert() -> nn.Module:
    """A BERT of a few hundred float64 parameters, without dropout, drawn from a fixed seed."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=LENGTH,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.5,
    )
    return BertForSequenceClassification(config).double()


class Logits(nn.Module):
    """A BERT that takes numbers of words and returns logits, as most models do."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.bert = model

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.bert(input_ids=words).logits
        return logits


def tasks(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Words and classes of a few tasks."""
    generator = torch.Generator().manual_seed(1)
    return [
        (
            torch.randint(0, WORDS, (EXAMPLES, LENGTH), generator=generator),
            torch.randint(0, CLASSES, (EXAMPLES,), generator=generator),
        )
        for _ in range(count)
    ]


def loader(task: Sequence[Tensor], batch: int = BATCH) -> DataLoader[Any]:
    """The batches in order."""
    return DataLoader(TensorDataset(*task), batch_size=batch)


def weights(model: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def plain(method: Method, make: Callable[[Any], torch.optim.Optimizer]) -> Tensor:
    """A loop in plain PyTorch."""
    model = Logits(bert())
    optimizer = make(model.parameters())
    with method.attach(model, optimizer):
        for task in tasks():
            method.begin_task(loader(task))
            model.train()
            for _ in range(EPOCHS):
                for x, y in loader(task):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
            method.end_task()
    return weights(model)


def avalanche(method: Method, make: Callable[[Any], torch.optim.Optimizer]) -> Tensor:
    """Avalanche's Naive."""
    from avalanche.training.plugins import EvaluationPlugin
    from avalanche.training.supervised import Naive

    from ong.plugins import MethodPlugin
    from ong.streams import TaskData, benchmark_from_tensors

    model = Logits(bert())
    naive = Naive(
        model=model,
        optimizer=make(model.parameters()),
        criterion=nn.CrossEntropyLoss(),
        train_mb_size=BATCH,
        train_epochs=EPOCHS,
        plugins=[MethodPlugin(method)],
        evaluator=EvaluationPlugin(),
    )
    for experience in benchmark_from_tensors([TaskData(task, task) for task in tasks()]).train_stream:
        naive.train(experience, shuffle=False, eval_streams=[])
    return weights(model)


def same_state(left: Any, right: Any) -> bool:
    """Whether two states hold the same numbers, to the bit."""
    if isinstance(left, Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same_state(part, right[key]) for key, part in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same_state, left, right))
    return bool(left == right)


def lightning_net(make: Callable[[Any], torch.optim.Optimizer]) -> Any:
    """A LightningModule with one optimizer for all its fits, as the other loops have."""
    import lightning

    class Net(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Logits(bert())
            self.optimizer = make(self.parameters())

        def forward(self, words: Tensor) -> Any:
            return self.model(words)

        def training_step(self, batch: Sequence[Tensor], number: int) -> Tensor:
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.optimizer

    return Net()


def lightning_trainer(*callbacks: Any, epochs: int = EPOCHS, **options: Any) -> Any:
    """A Trainer that says and writes nothing."""
    import lightning

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        **{"enable_checkpointing": False, "devices": 1, **quiet, **options},
    )


def lightning_loop(method: Method, make: Callable[[Any], torch.optim.Optimizer]) -> Tensor:
    """Lightning's Trainer, a new one a task."""
    from ong.integrations.lightning import MethodCallback

    net, callback = lightning_net(make), MethodCallback(method)
    for task in tasks():
        lightning_trainer(callback).fit(net, loader(task))
    return weights(net)


def items(task: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """A task as transformers' models take it."""
    return [{"input_ids": x, "labels": y} for x, y in zip(*task, strict=True)]


def transformers_trainer(
    folder: Path,
    model: nn.Module,
    task: Sequence[Tensor],
    optimizer: torch.optim.Optimizer | None,
    *callbacks: Any,
    **more: Any,
) -> Any:
    """A Trainer without schedule, clipping and noise."""
    from transformers import PrinterCallback, Trainer, TrainingArguments

    args = TrainingArguments(
        str(folder),
        **{
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": BATCH,
            "train_sampling_strategy": "sequential",
            "lr_scheduler_type": "constant",
            "max_grad_norm": 0,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            **more,
        },
    )
    trainer = Trainer(model, args, train_dataset=items(task), callbacks=list(callbacks), optimizers=(optimizer, None))
    trainer.remove_callback(PrinterCallback)
    return trainer


def transformers_loop(folder: Path) -> Callable[[Method, Callable[[Any], torch.optim.Optimizer]], Tensor]:
    """transformers' Trainer, a new one a task."""

    def loop(method: Method, make: Callable[[Any], torch.optim.Optimizer]) -> Tensor:
        from ong.integrations.transformers import MethodCallback

        model, callback = bert(), MethodCallback(method)
        optimizer = make(model.parameters())
        for task in tasks():
            transformers_trainer(folder, model, task, optimizer, callback).train()
        return weights(model)

    return loop
