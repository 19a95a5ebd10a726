"""Find a data set's files, download them when they are absent, and say how to get them when they are nowhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ong.errors import UserError

__all__ = ["Source", "located"]


@dataclass(frozen=True)
class Source:
    """Where a data set may lie, and where it comes from.

    Attributes:
        name: The data set's name.
        files: Its files, or paths of them, relative to their folder; each may be gzipped.
        words: What these files are, for messages: ``"its four IDX files"``.
        folders: Where that folder may lie in a data root, the first that has all files counts; the data root itself
            is looked at last.
        address: The official address, for those who download by themselves.
        download: Downloads into a folder; None where nothing does.
        system_folder: Where a system package puts the files.
        apt_package: That package's name.
        embedded: The data set in the package that suits the same networks; None where there is none.
    """

    name: str
    files: tuple[str, ...]
    words: str
    folders: tuple[str, ...]
    address: str
    download: Callable[[str], object]
    system_folder: Path | None = None
    apt_package: str | None = None
    embedded: str | None = None

    def places(self, data_root: Path | None) -> list[Path]:
        """Return the folders to look in; the one the user named comes first."""
        own = [] if data_root is None else [*(data_root / folder for folder in self.folders), data_root]
        return own + ([] if self.system_folder is None else [self.system_folder])


def located(source: Source, data_root: Path | None, download: bool) -> tuple[Path, list[Path]]:
    """Return the first folder that has all files of a data set, and the files; download them when none has.

    Args:
        source: The data set wanted.
        data_root: The user's folder.
        download: Whether to download into ``data_root`` when the files are nowhere.

    Raises:
        UserError: The files are missing.
    """
    places = source.places(data_root)
    found, reason = _find(source, places), ""
    if found is None and data_root is not None and download:
        reason = _download(source, data_root)
        found = _find(source, places)
    if found is None:
        raise _missing(source, places, reason)
    return found


def _find(source: Source, places: list[Path]) -> tuple[Path, list[Path]] | None:
    for folder in places:
        choices = [(folder / name, folder / f"{name}.gz") for name in source.files]
        files = [next((path for path in pair if path.is_file() or path.is_dir()), None) for pair in choices]
        found = [path for path in files if path is not None]
        if len(found) == len(source.files):
            return folder, found
    return None


def _download(source: Source, data_root: Path) -> str:
    """Download into ``data_root``; return why it failed, or an empty string."""
    try:
        source.download(str(data_root))
    except (OSError, RuntimeError, ValueError, EOFError) as error:  # URLError is an OSError
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return f"; the download failed: {lines[-1]}"  # torchvision lists the mirrors first, the cause last
    return ""


def _missing(source: Source, places: list[Path], reason: str) -> UserError:
    looked = ", ".join(map(str, places)) or "no folder, as no data root was given"
    ways = [f"install the system package {source.apt_package} (apt)"] if source.apt_package else []
    ways += [
        f"name a folder that holds {source.words} with --data-root (official address: {source.address})",
        "name an empty --data-root with network access, into which it is downloaded",
    ]
    if source.embedded:
        ways += [f"use the embedded data instead: --dataset {source.embedded}"]
    told = f"data set '{source.name}' not found (looked in: {looked}{reason}); ways to get it"
    return UserError(f"{told}: {'; '.join(ways[:-1])}; or {ways[-1]}")
