"""Files that are whole or not there: read where they are plain files, written to another name first and renamed.

A process that is killed while it writes leaves the file that was there, and one with a temporary name, which the next
write removes.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import psutil  # type: ignore[import-untyped]

from ong.errors import UserError, WorkStoppedError

__all__ = ["cannot", "is_there", "read_text", "remove_leftovers", "replacing", "write_bytes", "write_text"]

_OURS = {errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC}  # nobody named a wrong path


def cannot(do: str, path: Path | str, error: OSError | ValueError) -> UserError | WorkStoppedError:
    """Return the error that says in a line why a file cannot be read or written.

    It is a ``WorkStoppedError`` for a disk that is full or broken, and a ``UserError`` for everything else.

    Args:
        do: what was tried, such as ``"write"``.
        path: the file; of a long one the middle is left out.
        error: the system's, or Python's for a path that it refuses.
    """
    name = str(path)
    name = name if len(name) <= 300 else f"{name[:120]}…{name[-120:]}"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    kind = WorkStoppedError if isinstance(error, OSError) and error.errno in _OURS else UserError
    return kind(f"cannot {do} '{name}': {reason}")


def is_there(path: Path) -> bool:
    """Return whether a plain file lies at a path; False where nothing does.

    Raises:
        UserError: something else does, such as a directory or a pipe, or the path cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise cannot("read", path, error) from None
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
        raise UserError(f"'{path}' is {kind}, where a file is expected; move it away, or name another path")
    return True


def read_text(path: Path, what: str) -> str:
    """Return the text of a plain file in UTF-8, with or without a byte order mark.

    Args:
        path: the file.
        what: how errors name it, such as ``"strategy recipe"``.

    Raises:
        UserError: there is none, or none that can be read.
    """
    if not is_there(path):
        raise UserError(f"cannot read the {what} '{path}': there is no such file")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} '{path}' is not text in UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise cannot(f"read the {what}", path, error) from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of another when all is written, and is on the disk by then.

    Whatever goes wrong, the old file stays as it was and no other is left. Links are followed and permissions kept.

    Raises:
        UserError: the place cannot be written to.
        WorkStoppedError: the disk is full.
    """
    there = is_there(path)
    path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, path.name)
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if there:
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot("write", path, error) from None
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Put bytes in the place of a file, as :func:`replacing` does."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    """Put text in the place of a file, as :func:`replacing` does: UTF-8, lines end as the text has them.

    Bytes of a file name that are no text become question marks.
    """
    write_bytes(path, text.encode("utf-8", "replace"))


def remove_leftovers(folder: Path, name: str | None = None) -> None:
    """Remove what processes that were killed have left of a file, or of any in a folder."""
    of = re.compile(rf"\.{'.*' if name is None else re.escape(name)}\.(\d{{1,9}})\.tmp", re.DOTALL)
    for left in folder.iterdir():
        found = of.fullmatch(left.name)
        if found and (int(found[1]) == os.getpid() or not psutil.pid_exists(int(found[1]))):
            with suppress(OSError):
                left.unlink()
