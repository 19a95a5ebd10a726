"""What surrounds a command: streams that may be missing or broken, signals, errors in one line, exit codes."""

from __future__ import annotations

import codecs
import errno
import io
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from ong.errors import UserError, WorkStoppedError
from ong.files import cannot

__all__ = ["on_terminal", "one_line", "run_command_line", "say", "warnings_in_a_line"]

INTERRUPTED = 130  # what typer turns Ctrl-C into
_SIMILAR = {"−": "-", "–": "-", "—": "-", "±": "+-", "×": "x", "·": "*", "…": "...", "≤": "<=", "≥": ">=", "→": "->"}


def on_terminal() -> bool:
    """Return whether the error stream is there and a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def say(line: str) -> None:
    """Write a line to the error stream, if there is one that takes it: no work is lost for a message."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(one_line(line) + "\n")
        sys.stderr.flush()


def one_line(message: str) -> str:
    """Return a message without line breaks, and with codes in place of what would steer a terminal."""
    words = " ".join(message.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Print what warns the user without the place in the code."""
    former = warnings.formatwarning

    def line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> str:
        own = issubclass(category, UserWarning)
        return f"ong: {one_line(str(message))}\n" if own else former(message, category, *where, **more)

    warnings.formatwarning = line
    try:
        yield
    finally:
        warnings.formatwarning = former


def run_command_line(command: Callable[[], object]) -> NoReturn:
    """Run a command and exit with its code.

    Exit codes: 0 done; 2 the user's input is wrong; 130 interrupted; 1 anything else, such as an output that does not
    take what is printed. The work goes on though nobody may read of it.
    """
    _fill_missing_streams()
    if not os.environ.get("COLUMNS", "1").strip("0"):
        del os.environ["COLUMNS"]  # of a terminal without columns nothing would be printed
    with _stubborn_streams() as broken, warnings_in_a_line():
        for name in ("SIGTERM", "SIGHUP"):  # they end workers and let go of locks, as Ctrl-C does
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)
        code = _code_of(command)
    if broken and not code:
        code = 1
        if broken[0].errno != errno.EPIPE:  # who closes a pipe knows
            say(f"ong: cannot print: {broken[0].strerror}")
    sys.exit(code)


def _code_of(command: Callable[[], object]) -> int:
    try:
        code = command()
    except UserError as error:
        say(f"ong: {error}")
        return 2
    except WorkStoppedError as error:
        say(f"ong: {error}")
        return 1
    except OSError as error:
        told = cannot("read or write", error.filename or "a file", error)
        say(f"ong: {told}")
        return 2 if isinstance(told, UserError) else 1
    except MemoryError as error:
        say(f"ong: this machine has not enough memory ({error or 'for an array'})")
        return 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        usage = getattr(error, "format_message", None)  # click's errors, whichever click typer brings
        if usage is None:
            raise
        if usage():  # none where there were no arguments, and help was printed
            say(f"ong: {usage()}")
        return 2
    if code == INTERRUPTED:
        say("interrupted; the same command resumes where it was (with --force it begins anew)")
    return code if isinstance(code, int) else 0


def _fill_missing_streams() -> None:
    """Open what is closed of the three standard streams, so that no file of ours gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the least number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  # for good


@contextmanager
def _stubborn_streams() -> Iterator[list[OSError]]:
    """Let the standard streams take all that is printed: yields what went wrong with the output."""
    codecs.register_error("ong.similar", _similar)
    before, broken = (sys.stdout, sys.stderr), list[OSError]()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="ong.similar")
    sys.stdout = _Stubborn(before[0], broken)
    sys.stderr = _Stubborn(before[1], [])
    try:
        yield broken
    finally:
        sys.stdout.flush()
        sys.stdout, sys.stderr = before
        if broken:  # what is left in its buffer would be told once more at the end
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), before[0].fileno())


class _Stubborn:
    """A stream that keeps its errors to itself, and the first one of them for the end."""

    def __init__(self, stream: Any, broken: list[OSError]) -> None:
        self._stream, self._broken = stream, broken

    def write(self, text: str) -> int:
        if not self._broken:
            try:
                self._stream.write(text)
            except OSError as error:
                self._broken.append(error)
        return len(text)

    def flush(self) -> None:
        if not self._broken:
            try:
                self._stream.flush()
            except OSError as error:
                self._broken.append(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _similar(error: UnicodeError) -> tuple[str, int]:
    """Replace what the console's encoding lacks: a minus sign by a hyphen, a letter of a formula by a question mark."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_SIMILAR.get(character, "?") for character in lacking), error.end
