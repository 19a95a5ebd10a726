from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ong.natural.autoencoder import AutoencoderData, prepare


def images(train: int = 240, test: int = 60) -> SimpleNamespace:
    """Images of 4 × 4 with a little structure: a bright row at a random height, some noise."""
    generator = torch.Generator().manual_seed(0)

    def drawn(count: int) -> torch.Tensor:
        noise = torch.randint(0, 40, (count, 4, 4), generator=generator)
        rows = torch.randint(0, 4, (count,), generator=generator)
        noise[torch.arange(count), rows] += 180
        return noise.to(torch.uint8)

    return SimpleNamespace(train_images=drawn(train), test_images=drawn(test))


@pytest.fixture
def gaussian() -> AutoencoderData:
    return prepare(images())


@pytest.fixture
def bernoulli() -> AutoencoderData:
    return prepare(images(), "bernoulli")
