"""Data sets of image files: Tiny ImageNet, and any folder with a folder a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ong.errors import UserError
from ong.streams.images import ImageDataset
from ong.streams.map_style import from_items
from ong.streams.registry import dataset
from ong.streams.source import Source, located

__all__ = ["load_image_folder", "load_tiny_imagenet"]

_TINY = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_TINY_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def _image_folder(folder: Path) -> Any:
    """Return torchvision's data set of a folder with a folder a class."""
    from torchvision.datasets import ImageFolder

    try:
        return ImageFolder(str(folder))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: no folder with a folder of images a class ({error})") from None


def load_image_folder(
    path: str, train: str, test: str, size: int | None, channels: int | None, data_root: Path | None
) -> ImageDataset:
    """Read ``path/train/CLASS/*.png`` and ``path/test/CLASS/*.png``, or any other image files that PIL reads.

    Args:
        path: The folder, absolute or seen from the data root.
        train: The folder of the training images in it.
        test: That of the test images.
        size: Height and width that images are brought to.
        channels: 1 or 3.
        data_root: The user's folder.

    Raises:
        UserError: A folder is missing, or has other classes than the other one.
    """
    folder = (data_root or Path()) / Path(path).expanduser()
    parts = [_image_folder(folder / part) for part in (train, test)]
    if parts[0].classes != parts[1].classes:
        odd = sorted(set(parts[0].classes) ^ set(parts[1].classes))
        raise UserError(f"{folder}: '{train}' and '{test}' have different classes: {', '.join(odd[:5])}")
    first, second = parts
    classes = len(first.classes)
    return from_items("image-folder", first, second, str(folder), size=size, channels=channels, classes=classes)


class _Annotated:
    """Tiny ImageNet's validation images, whose classes stand in a text file.

    Attributes:
        targets: The labels.
    """

    def __init__(self, folder: Path, classes: dict[str, int]) -> None:
        path = folder / "val_annotations.txt"
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        unknown = [line for line in lines if len(line) < 2 or line[1] not in classes]
        if unknown:
            raise UserError(f"{path}: {unknown[0]} names no class of the training images")
        self._paths = [folder / "images" / line[0] for line in lines]
        self.targets = [classes[line[1]] for line in lines]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """Return an image and its label."""
        from torchvision.datasets.folder import default_loader

        try:
            return default_loader(str(self._paths[index])), self.targets[index]
        except OSError as error:
            raise UserError(f"{self._paths[index]}: cannot be read ({error})") from None


@dataset("tiny-imagenet", "Tiny ImageNet, 100,000 + 10,000 colour images of 64×64 in 200 classes")
def load_tiny_imagenet(data_root: Path | None, download: bool) -> ImageDataset:
    """Read Tiny ImageNet (Le and Yang, 2015); its validation images test, as the test images have no labels.

    Raises:
        UserError: The files are missing or corrupt.
    """

    def fetch(root: str) -> None:
        from torchvision.datasets.utils import download_and_extract_archive

        download_and_extract_archive(_TINY, root, md5=_TINY_MD5)

    files = ("train", "val/images", "val/val_annotations.txt")
    words = "the folders train and val"
    source = Source("tiny-imagenet", files, words, ("tiny-imagenet-200", "tiny-imagenet"), _TINY, fetch)
    folder, _ = located(source, data_root, download)
    train = _image_folder(folder / "train")
    test = _Annotated(folder / "val", train.class_to_idx)
    return from_items("tiny-imagenet", train, test, str(folder), channels=3, classes=len(train.classes))
