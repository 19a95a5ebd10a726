from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from ong.errors import UnknownNameError, UserError
from ong.natural.autoencoder import AutoencoderData, mean_image_loss, prepare, reconstructions


class Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(x)


def test_gaussian_data_have_zero_mean_pixels_and_one_global_deviation(gaussian: AutoencoderData) -> None:
    assert float(gaussian.train.mean(0).abs().max()) < 1e-6
    assert float(gaussian.train.std()) == pytest.approx(1.0, abs=1e-5)
    assert float(gaussian.train.std(0).std()) > 0.001  # pixels keep their own deviations


def test_zero_output_has_half_the_pixels_as_its_error(gaussian: AutoencoderData) -> None:
    # 392 for 784 pixels; the sample deviation's N − 1 makes it a little less.
    loss, error = gaussian.errors(Zero(), gaussian.train)
    assert loss == error == pytest.approx(16 / 2, rel=1e-3)


def test_bernoulli_loss_at_zero_logits_is_log_two_a_pixel(bernoulli: AutoencoderData) -> None:
    loss, error = bernoulli.errors(Zero(), bernoulli.test)
    assert loss == pytest.approx(16 * 0.6931471805599453, rel=1e-6)
    assert error == pytest.approx(0.5 * float((bernoulli.test - 0.5).square().sum(1).mean()), rel=1e-6)


def test_test_images_are_prepared_with_the_training_set_s_numbers(gaussian: AutoencoderData) -> None:
    back = gaussian.test * gaussian.scale + gaussian.mean
    assert float((back * 255 - (back * 255).round()).abs().max()) < 1e-3


def test_a_perfect_model_reconstructs_the_images(gaussian: AutoencoderData) -> None:
    shown, made = reconstructions(nn.Identity(), gaussian, 5)
    assert shown.shape == (5, 4, 4)
    torch.testing.assert_close(made, shown)
    assert float(shown.max()) <= 1.0


def test_bernoulli_reconstructions_are_probabilities(bernoulli: AutoencoderData) -> None:
    _, made = reconstructions(Zero(), bernoulli, 3)
    assert torch.equal(made, torch.full((3, 4, 4), 0.5))


def test_images_without_contrast_and_other_likelihoods_are_refused() -> None:
    flat = torch.full((3, 2, 2), 7, dtype=torch.uint8)
    with pytest.raises(UserError, match="all alike"):
        prepare(SimpleNamespace(train_images=flat, test_images=flat))
    with pytest.raises(UnknownNameError, match="did you mean 'bernoulli'"):
        prepare(SimpleNamespace(train_images=flat, test_images=flat), "bernouli")


def test_the_mean_image_is_the_best_constant_output(gaussian: AutoencoderData, bernoulli: AutoencoderData) -> None:
    assert mean_image_loss(gaussian) == pytest.approx(gaussian.errors(Zero(), gaussian.test)[0], rel=1e-6)
    p = bernoulli.train.mean(0).double().clamp(1e-3, 1 - 1e-3)  # smoothing moves it by less than 1/241
    x = bernoulli.test.double()
    expected = float(-(x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean())
    assert mean_image_loss(bernoulli) == pytest.approx(expected, rel=1e-3)
    flat = mean_image_loss(bernoulli)
    assert flat < bernoulli.errors(Zero(), bernoulli.test)[0]
