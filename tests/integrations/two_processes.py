"""A program of two processes: the same tasks in a plain loop, Lightning and transformers, half a batch in each process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

sys.path.insert(0, str(Path(__file__).parents[1]))

from integrations.loops import (
    BATCH,
    EPOCHS,
    METHODS,
    OPTIMIZERS,
    Logits,
    bert,
    lightning_net,
    lightning_trainer,
    tasks,
    transformers_trainer,
    weights,
)

from ong.integrations.lightning import MethodCallback as LightningCallback
from ong.integrations.transformers import MethodCallback as TransformersCallback

HALF = BATCH // 2
METHOD, MAKE = METHODS["ONGPrior"], OPTIMIZERS["AdamW"]


def half(task: Sequence[torch.Tensor]) -> DataLoader[Any]:
    """Every other example, in order."""
    data = TensorDataset(*task)
    return DataLoader(data, batch_size=HALF, sampler=DistributedSampler(data, shuffle=False))


def plain() -> torch.Tensor:
    model, method = DistributedDataParallel(Logits(bert())), METHOD()
    optimizer = MAKE(model.parameters())
    with method.attach(model, optimizer):
        for task in tasks():
            method.begin_task(half(task))
            for _ in range(EPOCHS):
                for x, y in half(task):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                    optimizer.step()
            method.end_task()
    return weights(model)


def lightning() -> torch.Tensor:
    net, callback = lightning_net(MAKE), LightningCallback(METHOD())
    for task in tasks():
        trainer = lightning_trainer(callback, strategy="ddp", devices=2, use_distributed_sampler=False)
        trainer.fit(net, half(task))
    return weights(net)


def transformers(folder: Path) -> torch.Tensor:
    model, callback = bert(), TransformersCallback(METHOD())
    optimizer = MAKE(model.parameters())
    options = {"per_device_train_batch_size": HALF, "ddp_backend": "gloo", "average_tokens_across_devices": False}
    for number, task in enumerate(tasks()):
        trainer = transformers_trainer(folder, model, task, optimizer, callback, save_strategy="epoch", **options)
        trainer.train()
        if number:  # once more, from the middle
            model, callback = bert(), TransformersCallback(METHOD())
            optimizer = MAKE(model.parameters())
            again = transformers_trainer(folder, model, task, optimizer, callback, **options)
            again.train(resume_from_checkpoint=str(folder / "checkpoint-3"))
    return weights(model)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    torch.distributed.init_process_group("gloo")
    ends = {"plain": plain(), "lightning": lightning(), "transformers": transformers(out / "checkpoints")}
    torch.save(ends, out / f"{rank}.pt")
    torch.distributed.destroy_process_group()
