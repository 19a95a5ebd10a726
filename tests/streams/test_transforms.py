import numpy as np
import pytest
import torch
from scipy import ndimage

from ong.errors import UserError
from ong.streams import ImageDataset
from ong.streams.transforms import Normalisation, permute_pixels, pixel_permutations, rotate


def test_normalisation_uses_the_mean_and_population_std_of_the_training_pixels(
    mnist10k: ImageDataset,
) -> None:
    pixels = mnist10k.train_images.numpy().astype(np.float64)
    normalise = Normalisation(mnist10k)
    assert normalise.mean == pytest.approx(pixels.mean(), rel=1e-12)
    assert normalise.std == pytest.approx(pixels.std(), rel=1e-12)
    normalised = normalise(mnist10k.test_images)
    assert normalised.shape == (2000, 1, 28, 28)
    assert normalised.dtype == torch.float32
    expected = (mnist10k.test_images.numpy().astype(np.float64) - pixels.mean()) / pixels.std()
    np.testing.assert_allclose(normalised[:, 0].numpy(), expected, atol=1e-6)  # float32 rounding


def test_constant_images_cannot_be_normalised() -> None:
    grey, label = torch.full((1, 2, 2), 7, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UserError, match="every training pixel is 7"):
        Normalisation(ImageDataset("grey", grey, label, grey, label, 1, "test"))


def test_permutations_are_bijections_and_the_first_is_the_identity() -> None:
    permutations = pixel_permutations(784, 10, 3)
    assert all(torch.equal(permutation.sort().values, torch.arange(784)) for permutation in permutations)
    assert torch.equal(permutations[0], torch.arange(784))
    assert len({tuple(permutation.tolist()) for permutation in permutations}) == 10


def test_a_permutation_depends_on_seed_and_task_alone() -> None:
    long, short = pixel_permutations(784, 10, 3), pixel_permutations(784, 4, 3, first_identity=False)
    assert all(torch.equal(a, b) for a, b in zip(long[1:4], short[1:], strict=True))
    assert not torch.equal(short[0], torch.arange(784))
    other = pixel_permutations(784, 10, 4)
    assert not any(torch.equal(a, b) for a, b in zip(long[1:], other[1:], strict=True))


def test_permuting_pixels_reads_them_in_the_given_order() -> None:
    image = torch.tensor([[[10, 11], [12, 13]]])
    assert permute_pixels(image, torch.tensor([3, 0, 2, 1])).tolist() == [[[13, 10], [12, 11]]]


@pytest.mark.parametrize("degrees", [10, 37.5, 45, 90, 180, -20])
def test_rotation_agrees_with_scipy(mnist10k: ImageDataset, degrees: float) -> None:
    images = mnist10k.train_images[:50]
    # "grid-constant" interpolates between edge pixels and the background beyond, as grid_sample does
    expected = ndimage.rotate(
        images.numpy().astype(np.float64), degrees, axes=(2, 1), reshape=False, order=1, mode="grid-constant"
    )
    # half a grey level for rounding; float32 sampling positions are exact to about 2e-6 pixels, so to 2e-3 levels
    np.testing.assert_allclose(rotate(images, degrees).numpy(), expected, atol=0.502, rtol=0)


def test_positive_angles_turn_counter_clockwise() -> None:
    top_right = torch.zeros(1, 3, 3)
    top_right[0, 0, 2] = 1
    expected = torch.zeros(1, 3, 3, dtype=torch.uint8)
    expected[0, 0, 0] = 1
    assert torch.equal(rotate(top_right, 90), expected)


@pytest.mark.parametrize("degrees", [0, 360, -720])
def test_full_turns_leave_every_grey_level_as_it_is(mnist10k: ImageDataset, degrees: float) -> None:
    assert torch.equal(rotate(mnist10k.train_images, degrees), mnist10k.train_images)


def test_edge_pixels_are_attenuated_once() -> None:
    # a pixel half covered has half the level of its image; torchvision, given a fill, makes it a quarter
    white = torch.full((1, 28, 28), 200.0)
    reference = ndimage.rotate(white.numpy(), 37, axes=(2, 1), reshape=False, order=1, mode="grid-constant")
    np.testing.assert_allclose(rotate(white, 37).numpy(), reference, atol=0.502, rtol=0)


def test_rotation_refuses_images_that_are_not_square() -> None:
    with pytest.raises(UserError, match="square images, found 4×5"):
        rotate(torch.zeros(2, 4, 5), 10)
