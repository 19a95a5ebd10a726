"""Images as an autoencoder sees them: centred and scaled if Gaussian, within [0, 1] if Bernoulli."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ong.errors import UnknownNameError, UserError

__all__ = ["AutoencoderData", "Images", "mean_image_loss", "prepare", "reconstructions"]

_CHUNK = 2000  # examples a forward pass of an evaluation


class Images(Protocol):
    """What :class:`ong.streams.images.ImageDataset` offers: uint8 images ``[N, H, W]``."""

    @property
    def train_images(self) -> Tensor:
        """The training images."""
        ...

    @property
    def test_images(self) -> Tensor:
        """The test images."""
        ...


@dataclass(frozen=True, eq=False)
class AutoencoderData:
    """Flat images, inputs and targets alike.

    Attributes:
        train: ``[N, pixels]``.
        test: ``[M, pixels]``.
        likelihood: ``"gaussian"`` or ``"bernoulli"``.
        mean: what was taken off each pixel, ``[pixels]``, in shares of full ink.
        scale: what the rest was divided by, likewise.
        size: height and width of an image.
    """

    train: Tensor
    test: Tensor
    likelihood: str
    mean: Tensor
    scale: float
    size: tuple[int, int]

    @property
    def pixels(self) -> int:
        """How many an image has."""
        return self.train.shape[1]

    def images(self, outputs: Tensor) -> Tensor:
        """Return network outputs ``[n, pixels]`` as images ``[n, H, W]`` within [0, 1]."""
        values = torch.sigmoid(outputs) if self.likelihood == "bernoulli" else outputs * self.scale + self.mean
        return values.clamp(0, 1).reshape(-1, *self.size)

    def errors(self, model: nn.Module, rows: Tensor) -> tuple[float, float]:
        """Return a model's loss and squared error on rows of this data, means over examples.

        Returns:
            The loss, −log p(x | h) in nats (½‖x − h‖² when Gaussian, cross-entropy when Bernoulli), and
            ½‖x − x̂‖² in the units of the data, x̂ the mean of the likelihood; equal when Gaussian.
        """
        loss = error = 0.0
        with torch.no_grad():
            for start in range(0, len(rows), _CHUNK):
                part = rows[start : start + _CHUNK]
                outputs = model(part)
                if self.likelihood == "bernoulli":
                    entropy = nn.functional.binary_cross_entropy_with_logits(outputs, part, reduction="sum")
                    loss += float(entropy)
                    outputs = torch.sigmoid(outputs)
                error += 0.5 * float((outputs - part).square().sum())
        count = len(rows)
        return (loss if self.likelihood == "bernoulli" else error) / count, error / count


def prepare(images: Images, likelihood: str = "gaussian", *, dtype: torch.dtype = torch.float32) -> AutoencoderData:
    """Return images prepared as the paper's code does.

    Gaussian: the training set's mean of each pixel is removed and everything divided by one global standard
    deviation, so that ½‖x‖² averages half the number of pixels (392 for 784). Bernoulli: shares of full ink.

    Args:
        images: training and test images.
        likelihood: ``"gaussian"`` or ``"bernoulli"``.
        dtype: of the result.

    Raises:
        UnknownNameError: another likelihood.
        UserError: images without any contrast.
    """
    train, test = (part.flatten(1).to(dtype) / 255 for part in (images.train_images, images.test_images))
    height, width = images.train_images.shape[1:]
    if likelihood == "bernoulli":
        zero = torch.zeros(train.shape[1], dtype=dtype, device=train.device)
        return AutoencoderData(train, test, likelihood, zero, 1.0, (height, width))
    if likelihood != "gaussian":
        raise UnknownNameError("autoencoder likelihood", likelihood, ("gaussian", "bernoulli"))
    mean = train.mean(0)
    centred = train - mean
    scale = float(centred.std())
    if not scale > 0:
        raise UserError("the training images are all alike; there is nothing for an autoencoder to learn")
    return AutoencoderData(centred / scale, (test - mean) / scale, likelihood, mean, scale, (height, width))


def reconstructions(model: nn.Module, data: AutoencoderData, count: int = 10) -> tuple[Tensor, Tensor]:
    """Return the first test images and what the model makes of them, both ``[count, H, W]`` within [0, 1]."""
    rows = data.test[:count]
    with torch.no_grad():
        made = data.images(model(rows))
    shown = (rows * data.scale + data.mean).clamp(0, 1).reshape(-1, *data.size)
    return shown, made


def mean_image_loss(data: AutoencoderData) -> float:
    """Return the test loss of a net that puts out the mean training image whatever it sees: not learning yet.

    Gaussian: ½‖x‖² of centred images. Bernoulli: cross-entropy at p = (Σx + ½)/(N + 1) a pixel, which is never 0 or 1.
    """
    if data.likelihood == "gaussian":
        return 0.5 * float(data.test.square().sum(1).mean())
    p = (data.train.sum(0) + 0.5) / (len(data.train) + 1)
    return float(nn.functional.binary_cross_entropy(p.expand_as(data.test), data.test, reduction="sum")) / len(
        data.test
    )
