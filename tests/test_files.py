"""Files are whole or not there, whatever happens while they are written, and only plain files are read."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ong.errors import UserError, WorkStoppedError
from ong.files import is_there, read_text, remove_leftovers, replacing, write_bytes, write_text


@contextmanager
def full_disk(left: int) -> Iterator[None]:
    """Let no file grow beyond some bytes: the system refuses to write, as it does on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (left, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_replaced_as_a_whole_and_keeps_its_mode_and_the_link_to_it(tmp_path: Path) -> None:
    path, link = tmp_path / "real.txt", tmp_path / "link.txt"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to("real.txt")
    write_text(link, "new\nlines\n")
    assert path.read_bytes() == b"new\nlines\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link.txt", "real.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_breaks_off_leaves_the_old_file_and_no_other(error: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def break_off() -> None:
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        break_off()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_told_and_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with full_disk(100_000), pytest.raises(WorkStoppedError, match=r"^cannot write '.*a\.bin': File too large$"):
        write_bytes(path, bytes(1_000_000))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_place_that_cannot_be_written_to_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write '/proc/a.txt'"):
        write_text(Path("/proc/a.txt"), "x")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")
    with pytest.raises(UserError, match="File name too long") as caught:
        write_text(tmp_path / ("long" * 1000), "x")
    assert len(str(caught.value)) < 400
    with pytest.raises(UserError, match="null"):
        write_text(tmp_path / "a\0b", "x")


KILLED = """
import os, signal, sys
from pathlib import Path
from ong.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_that_is_killed_leaves_the_old_file_and_the_next_one_removes_its_rest(tmp_path: Path) -> None:
    path = tmp_path / "a[1].txt"  # characters that patterns of file names read otherwise
    path.write_text("old")
    subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write_text(path, "new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_rest_of_a_process_that_lives_is_left_to_it(tmp_path: Path) -> None:
    living = tmp_path / f".a.txt.{os.getppid()}.tmp"
    living.touch()
    (tmp_path / ".a.txt.mine.tmp").touch()
    remove_leftovers(tmp_path)
    write_text(tmp_path / "a.txt", "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([living.name, ".a.txt.mine.tmp", "a.txt"])


@pytest.fixture(params=["directory", "pipe", "socket", "device"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Something that is no plain file, and how it is called."""
    path = tmp_path / "other"
    match request.param:
        case "directory":
            path.mkdir()
            yield path, "a directory"
        case "pipe":
            os.mkfifo(path)
            yield path, "a pipe"
        case "socket":
            with socket.socket(socket.AF_UNIX) as found:
                found.bind(str(path))
                yield path, "a device or socket"
        case _:
            yield Path("/dev/zero"), "a device or socket"


def test_other_kinds_of_files_are_named_and_neither_read_nor_written(other: tuple[Path, str]) -> None:
    path, kind = other
    for use in (lambda: is_there(path), lambda: read_text(path, "record"), lambda: write_text(path, "x")):
        with pytest.raises(UserError, match=f"{path.name}' is {kind}, where a file is expected"):
            use()


def test_text_of_windows_is_read_and_other_encodings_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\r\n")
    assert read_text(path, "recipe") == "a = 1\n"
    path.write_bytes("a = 1".encode("utf-16"))
    with pytest.raises(
        UserError, match=r"the recipe '.*a\.toml' is not text in UTF-8 \(invalid start byte at byte 0\)"
    ):
        read_text(path, "recipe")
    with pytest.raises(UserError, match="there is no such file"):
        read_text(tmp_path / "gone", "recipe")
