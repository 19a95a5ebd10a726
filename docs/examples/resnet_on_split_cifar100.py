"""torchvision's ResNet-18 learns the 100 classes of CIFAR-100 in ten tasks of ten, in a loop of plain PyTorch.

Accuracy is that among a task's own classes. Two runs stand side by side: without a method, and with ONGPrior.

    python resnet_on_split_cifar100.py --data-root data    # the folder that holds cifar-100-python
    python resnet_on_split_cifar100.py --tiny              # a small net on made-up images, in seconds
"""

from __future__ import annotations

import argparse

import torch
import torchvision
from torch import Tensor, nn

import ong

Task = tuple[Tensor, Tensor, Tensor]
"""Images, labels, and the task's classes."""


def cifar(root: str, train: bool, tasks: int) -> list[Task]:
    """Return the images of each task, normalised by channel."""
    data = torchvision.datasets.CIFAR100(root, train=train)
    x = torch.from_numpy(data.data).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.507, 0.487, 0.441]), torch.tensor([0.267, 0.256, 0.276])
    return split((x - mean[:, None, None]) / std[:, None, None], torch.tensor(data.targets), tasks, 100)


def made_up(train: bool, tasks: int) -> list[Task]:
    """Return images of 6 classes: a pattern each, in noise."""
    draw, count = torch.Generator().manual_seed(0), 120 if train else 600
    patterns = nn.functional.interpolate(torch.randn(6, 3, 4, 4, generator=draw), size=16)
    draw.manual_seed(1 if train else 2)
    y = torch.arange(count) % 6
    return split(patterns[y] + 2.5 * torch.randn(count, 3, 16, 16, generator=draw), y, tasks, 6)


def split(x: Tensor, y: Tensor, tasks: int, classes: int) -> list[Task]:
    """Return the images in tasks of successive classes."""
    parts = torch.arange(classes).chunk(tasks)
    return [(x[torch.isin(y, part)], y[torch.isin(y, part)], part) for part in parts]


def new_model(classes: int, tiny: bool) -> nn.Module:
    """Return a ResNet-18 for small images; a tiny one has its first block only."""
    model = torchvision.models.resnet18(num_classes=classes)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    if tiny:
        model.conv1.stride, model.layer1 = (4, 4), model.layer1[:1]
        model.layer2 = model.layer3 = model.layer4 = nn.Identity()
        model.fc = nn.Linear(64, classes)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, task: Task) -> float:
    """Return the share of images that are told right among the task's classes."""
    x, y, own = task
    model.eval()
    outputs = torch.cat([model(part) for part in x.split(500)])
    return float((own[outputs[:, own].argmax(1)] == y).float().mean())


def run(name: str, method: ong.methods.Method, options: argparse.Namespace) -> None:
    """Train on all tasks in turn, and print how well each was learned and what is left at the end."""
    torch.manual_seed(options.seed)
    if options.tiny:
        train, test = made_up(True, options.tasks), made_up(False, options.tasks)
    else:
        train, test = (cifar(options.data_root, part, options.tasks) for part in (True, False))
    model = new_model(sum(len(own) for _, _, own in train), options.tiny)
    sgd = torch.optim.SGD(model.parameters(), lr=options.rate, momentum=0.9)
    learned = []
    with method.attach(model, sgd, tasks=len(train)):
        for (x, y, own), shown in zip(train, test, strict=True):
            method.begin_task([x, y])
            for _ in range(options.epochs):
                model.train()
                for batch in torch.randperm(len(x)).split(options.batch):
                    sgd.zero_grad()
                    outputs = model(x[batch])[:, own]
                    nn.functional.cross_entropy(outputs, y[batch] - own[0]).backward()
                    sgd.step()
            method.end_task()
            learned.append(accuracy(model, shown))
    left = [accuracy(model, task) for task in test]
    mean = [sum(found) / len(found) for found in (learned, left)]
    print(f"{name:10}when learned {mean[0]:.3f}  at the end {mean[1]:.3f}  forgotten {mean[0] - mean[1]:.3f}")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", default="data", help="folder with cifar-100-python (default data)")
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=5, help="of each task (default 5)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=0.01, help="learning rate (default 0.01)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="a small net on made-up images of three tasks")
    options = parser.parse_args()
    if options.tiny:
        options.tasks, options.epochs, options.batch, options.rate = 3, 10, 10, 0.1
    run("naive", ong.methods.Method(), options)
    run("ONGPrior", ong.methods.ONGPrior(damping=0.1, directions_per_task=30, examples_per_task=200), options)


if __name__ == "__main__":
    main()
