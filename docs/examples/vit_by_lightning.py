"""A vision transformer learns handwritten digits turned by 0, 60 and 120 degrees, one angle after the other.

Lightning trains it, with Adam. Two runs stand side by side: without a method, and with ONGPrior.

    pip install 'ong[lightning]'
    python vit_by_lightning.py
"""

from __future__ import annotations

import argparse
import logging
import warnings

import lightning
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import VisionTransformer
from torchvision.transforms.functional import InterpolationMode, rotate

import ong
from ong.integrations.lightning import MethodCallback

ANGLES = (0, 60, 120)


def tasks(images: int) -> list[tuple[TensorDataset, TensorDataset]]:
    """Return training and test images of each angle: scikit-learn's digits, 8 × 8 pixels."""
    digits = load_digits()
    x, y = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    found = []
    for angle in ANGLES:
        turned = rotate(x, angle, InterpolationMode.BILINEAR)
        found.append((TensorDataset(turned[:images], y[:images]), TensorDataset(turned[-500:], y[-500:])))
    return found


class Classifier(lightning.LightningModule):
    """A ViT of 4 × 4 patches."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.vit = VisionTransformer(
            image_size=8, patch_size=2, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
        )
        torch.nn.init.trunc_normal_(self.vit.conv_proj.weight, std=0.3)
        torch.nn.init.trunc_normal_(self.vit.heads.head.weight, std=0.02)  # torchvision starts it at zero

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of grey images."""
        return self.vit(x.expand(-1, 3, -1, -1))

    def training_step(self, batch: list[Tensor], number: int) -> Tensor:
        """Return the loss of a batch."""
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=self.rate)


@torch.no_grad()
def accuracy(net: Classifier, data: TensorDataset) -> float:
    """Return the share of images that are told right."""
    x, y = data.tensors
    return float((net.eval()(x).argmax(1) == y).float().mean())


def run(name: str, callbacks: list[lightning.Callback], options: argparse.Namespace) -> None:
    """Train on all angles in turn, and print the accuracy of each at the end."""
    lightning.seed_everything(options.seed, verbose=False)
    net, stream = Classifier(options.rate), tasks(options.images)
    for train, _ in stream:
        trainer = lightning.Trainer(
            max_epochs=options.epochs, accelerator="cpu", barebones=True, enable_progress_bar=False, callbacks=callbacks
        )
        trainer.fit(net, DataLoader(train, batch_size=32, shuffle=True))
    found = [accuracy(net, test) for _, test in stream]
    each = "  ".join(f"{angle}° {share:.3f}" for angle, share in zip(ANGLES, found, strict=True))
    print(f"{name:10}{each}  mean {sum(found) / len(found):.3f}")


def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=15, help="of each angle (default 15)")
    parser.add_argument("--images", type=int, default=1200, help="training images (default 1200)")
    parser.add_argument("--rate", type=float, default=5e-3, help="learning rate (default 0.005)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tiny", action="store_true", help="400 images and 8 epochs, in seconds")
    options = parser.parse_args()
    if options.tiny:
        options.images, options.epochs = 400, 8
    warnings.filterwarnings("ignore", ".*barebones|.*does not have many workers")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    run("naive", [], options)
    method = ong.methods.ONGPrior(damping=0.1, directions_per_task=100, examples_per_task=200)
    run("ONGPrior", [MethodCallback(method, tasks=len(ANGLES))], options)


if __name__ == "__main__":
    main()
