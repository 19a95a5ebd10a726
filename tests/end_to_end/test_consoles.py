"""Consoles that lack characters, columns or are not there, and paths of any kind: no work is lost for a message."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kills import all_gone, command, family, leftovers, wait_until

from ong.cli import main

Console = Callable[..., str]
RECORD = Path(__file__).parents[2] / "results" / "permuted-mnist" / "ncl" / "seed-0"


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Console:
    """Return a function that runs ``ong`` on a console of an encoding and returns what it prints."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(encoding: str, *arguments: str) -> str:
        console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)  # strict, as Python opens it
        monkeypatch.setattr(sys, "stdout", console)
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        with pytest.raises(SystemExit) as exit_:
            main()
        assert not exit_.value.code
        console.flush()
        return console.buffer.getvalue().decode(encoding)

    return run


@pytest.mark.parametrize("columns", ["0", "", "many"])
def test_a_console_that_claims_to_have_no_columns_is_printed_to(
    printed: Console, columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert "permuted-mnist" in names(printed("utf-8", "list"))


def names(listing: str) -> list[str]:
    """Return the first words of the lines of ``ong list``, without those of lines that continue a summary."""
    return [line.split()[0] for line in listing.splitlines() if line.strip() and not line.startswith(" ")]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_list_prints_every_line_though_letters_are_lacking(printed: Console, encoding: str) -> None:
    listing, whole = printed(encoding, "list"), printed("utf-8", "list")
    assert names(listing) == names(whole)
    with pytest.raises(UnicodeEncodeError):  # or the test would show nothing
        whole.encode(encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_show_keeps_the_sign_of_negative_numbers(printed: Console, encoding: str) -> None:
    transfer = json.loads((RECORD / "record.json").read_text())["metrics"]["BWT"]
    assert transfer < 0
    assert f" {transfer:.4f} " in printed(encoding, "show", str(RECORD))
    assert f" −{-transfer:.4f} " in printed("utf-8", "show", str(RECORD))


@pytest.mark.parametrize(
    ("encoding", "arguments", "shown"),
    [("cp1252", ["list"], "Natural gradient"), ("ascii", ["show", str(RECORD)], "R[T-1, j]")],
)
def test_a_program_of_its_own_prints_so_too(encoding: str, arguments: list[str], shown: str) -> None:
    code = "from ong.cli import main; main()"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode(encoding, "replace")
    assert shown in done.stdout.decode(encoding)


QUICK = ("--set", "training.epochs=1", "--set", "stream.tasks=2", "--jobs", "1")
START = [sys.executable, "-m", "ong"]


def done(folder: Path, shell: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run ``ong`` in a folder through a shell, which can close streams; ``"$@"`` in ``shell`` is the command."""
    return subprocess.run(
        ["bash", "-c", shell, "bash", *START, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "code"),
    [
        ('"$@" <&- >&- 2>&-', 0),
        ('"$@" >/dev/full', 1),
        ('env -u HOME "$@" 2>/dev/full', 0),
        ('set -o pipefail; "$@" | true', 1),
        pytest.param('"$@" 2>&-', 0, marks=pytest.mark.nightly),
        pytest.param('"$@" >&-', 0, marks=pytest.mark.nightly),
    ],
)
def test_runs_are_done_whatever_becomes_of_what_is_printed(shell: str, code: int, tmp_path: Path) -> None:
    found = done(tmp_path, shell, "run", "permuted-digits", "naive", "ogd", *QUICK)
    assert found.returncode == code, found.stderr
    assert b"Traceback" not in found.stderr
    assert len(list(tmp_path.glob("runs/*/*/seed-0/record.json"))) == 2
    if "full" in shell and code:
        assert found.stderr.splitlines()[-1] == b"ong: cannot print: No space left on device"


@pytest.mark.slow
def test_two_workers_without_any_stream_end_their_runs(tmp_path: Path) -> None:
    found = done(tmp_path, '"$@" <&- >&- 2>&-', "run", "permuted-digits", "naive", "ogd", *QUICK[:-1], "2")
    assert found.returncode == 0
    assert len(list(tmp_path.glob("runs/*/*/seed-0/record.json"))) == 2


RECIPE = 'summary = "s"\nsource = "s"\n[optimizer]\nuse = "torch.optim:SGD"\nlr = 0.02\n[search]\n"optimizer.lr" = { choices = [0.02] }\n'


def test_what_a_search_found_is_written_though_it_cannot_be_printed(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE)
    search = ("tune", "permuted-digits", "./mine.toml", "--trials", "1", "--write", *QUICK)
    assert done(tmp_path, '"$@" >/dev/full', *search).returncode == 1
    assert '"optimizer.lr" = 0.02' in (tmp_path / "mine.toml").read_text().partition("[on.permuted-digits]")[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "signal_",
    [signal.SIGINT, *(pytest.param(s, marks=pytest.mark.nightly) for s in (signal.SIGHUP, signal.SIGTERM))],
)
def test_a_signal_ends_workers_and_lets_go_of_their_runs(signal_: signal.Signals, tmp_path: Path) -> None:
    process = command(tmp_path, "run", "permuted-mnist", "naive", "ogd", "--jobs", "2")
    wait_until(lambda: len(list(tmp_path.glob("runs/*/*/*/.lock"))) == 2)
    members = family(process.pid)
    process.send_signal(signal_)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "interrupted; the same command resumes where it was (with --force it begins anew)\n"
    assert all_gone(members)
    kept = [path for path in leftovers(tmp_path) if not path.endswith("checkpoint.pt")]  # of a task that had ended
    assert kept == []


Inside = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Inside:
    """Run the command line in this process, in an empty folder, on a console of an encoding and 20 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "20")

    def run(*arguments: str, encoding: str = "utf-8") -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ong", *arguments])
        console = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as only_here:
            only_here.setattr(sys, "stdout", console)
            with pytest.raises(SystemExit) as exit_:
                main()
        console.flush()
        return int(exit_.value.code or 0), console.buffer.getvalue().decode(encoding), capsys.readouterr().err

    return run


@pytest.mark.parametrize("name", [b"[x]", b"[/red]", b"\xff\xfe", b":warning:", b"a\x1b[31m b"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_folders_of_any_name_are_written_to_and_told(name: bytes, encoding: str, inside: Inside) -> None:
    out = os.fsdecode(name)
    code, printed_, err = inside("run", "permuted-digits", "naive", *QUICK, "--out", out, encoding=encoding)
    assert (code, err) == (0, "")
    assert (Path(out) / "permuted-digits/naive/seed-0/record.json").exists()
    told = printed_.splitlines()[-1]
    assert told.startswith("records in ")
    assert told.endswith("permuted-digits/")
    assert "\x1b" not in told
    if out.isascii() and out.isprintable():
        assert f"records in {out}" in told
    for arguments in (
        ("report", out, "--format", "md"),
        ("show", f"{out}/permuted-digits/naive/seed-0"),
    ):
        assert inside(*arguments, encoding=encoding)[::2] == (0, "")


def test_messages_steer_no_terminal(inside: Inside) -> None:
    code, _, err = inside("run", "permuted-digits", "na\x1b[2Jive\nx")
    assert code == 2
    assert "\x1b" not in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("place", ["record.json", "checkpoint.pt", "environment.json", ".lock"])
@pytest.mark.parametrize("kind", ["directory", "pipe"])
def test_other_kinds_of_files_in_the_place_of_ours_are_told_before_anything_is_trained(
    place: str, kind: str, inside: Inside
) -> None:
    folder = Path("runs/permuted-digits/naive/seed-0")
    folder.mkdir(parents=True)
    os.mkfifo(folder / place) if kind == "pipe" else (folder / place).mkdir()
    code, _, err = inside("run", "permuted-digits", "naive", *QUICK)
    assert code == 2
    assert f"{place}' is a {kind}, where a file is expected" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "permuted-digits", "./pipe.toml"), "pipe.toml' is a pipe"),
        (("run", "./folder.toml"), "folder.toml' is a directory"),
        (("sweep", "pipe.toml"), "pipe.toml' is a pipe"),
        (("show", "pipe.toml"), "pipe.toml' is a pipe"),
        (("verify", "pipe.toml"), "pipe.toml' is a pipe"),
        (("sweep", "/dev/zero"), "zero' is a device"),
        (("run", "permuted-digits", "naive", "--out", "x" * 300), "File name too long"),
        (("run", "permuted-digits", "x" * 300 + ".toml"), "File name too long"),
        (("show", "x" * 5000), "File name too long"),
    ],
)
def test_other_kinds_of_files_are_not_read(arguments: tuple[str, ...], told: str, inside: Inside) -> None:
    os.mkfifo("pipe.toml")
    Path("folder.toml").mkdir()
    code, _, err = inside(*arguments)
    assert code == 2
    assert told in err
    assert err.count("\n") == 1
