"""The site builds without a warning and needs no network; what its pages show is true."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

from ong.cli import app
from ong.experiments.json_schema import json_schema
from ong.experiments.kinds import KINDS
from ong.experiments.sweep_file import SweepFile
from ong.report.columns import columns

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md"))
NOTEBOOKS = sorted((DOCS / "examples").glob("*.ipynb"))
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
needs_mkdocs = pytest.mark.skipif(find_spec("mkdocs") is None and "CI" not in os.environ, reason="no mkdocs here")


class Page(HTMLParser):
    """What a built page links to, loads, and can be linked to at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: set[str] = set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag in ("link", "script", "img") and given.get("rel") not in ("next", "prev"):
            self.loaded |= {given[name] for name in ("href", "src") if name in given}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    """The built pages by path, but for the published reports."""
    out = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "-f",
        str(DOCS / "site" / "mkdocs.yml"),
        "-d",
        str(out),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    paths = (path for path in out.rglob("*.html") if "results" not in path.relative_to(out).parts)
    return {str(path): Page(path) for path in paths}


@needs_mkdocs
def test_links_of_built_pages_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site: dict[str, Page]) -> None:
    assert len(site) >= len(PAGES)
    wrong = []
    for name, page in site.items():
        if name.endswith("404.html"):  # its links are those of a server's root
            continue
        for target in page.links | page.loaded:
            path, _, anchor = target.partition("#")
            if target.startswith(("http://", "https://", "//")):
                wrong += [(name, target)] * (target in page.loaded)
            elif not target.startswith("data:"):
                aim = os.path.normpath(Path(name).parent / path) if path else name
                exists = Path(aim).exists() and (not anchor or aim not in site or anchor in site[aim].ids)
                wrong += [(name, target)] * (not exists)
    assert wrong == []


def named(site: dict[str, Page], name: str) -> str:
    (text,) = (page.text for path, page in site.items() if path.endswith(f"/{name}.html") and "/api/" not in path)
    return text


@needs_mkdocs
def test_formulas_are_drawn_by_the_browser_alone(site: dict[str, Page]) -> None:
    theory = named(site, "theory")
    source = (DOCS / "theory.md").read_text(encoding="utf-8")
    assert theory.count("<math") == source.count("$") // 2 + source.count("```math")
    formulas = re.findall(r"<math.*?</math>", theory, re.DOTALL)
    left = r"\\|mathvariant=\"(?!normal)"  # LaTeX that was not understood; letters that browsers draw as plain ones
    assert [found for found in formulas if re.search(left, found)] == []
    assert "ℝ" in theory


@needs_mkdocs
def test_reference_pages_have_all_that_the_code_has(site: dict[str, Page]) -> None:
    wanted = {
        "metrics": set(columns()),
        "command-line": {
            option for c in COMMANDS.values() for p in c.params for option in p.opts if option.startswith("-")
        },
        "recipes": {key for what in ("benchmark", "strategy") for key in json_schema(what)["properties"]}
        | {key for kind in KINDS for key in json_schema("benchmark", kind)["properties"]},
        "records": set(json_schema("record")["properties"]),
    }
    missing = {
        (page, key) for page, keys in wanted.items() for key in keys if f"<code>{key}</code>" not in named(site, page)
    }
    assert missing == set()
    assert "passes over each task" in named(site, "recipes")  # said in a docstring


@needs_mkdocs
def test_docstrings_are_drawn_without_marks_of_other_tools(site: dict[str, Page]) -> None:
    pages = {path: page.text for path, page in site.items() if "/api/" in path}
    assert len(pages) == 7
    for path, text in pages.items():
        assert re.findall(r":(?:meth|func|class|attr|mod|data):|<blockquote>|&gt;&gt;&gt; (?=[^<]*</p>)", text) == [], (
            path
        )


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_holds(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if "CI" not in os.environ:
        pytest.importorskip("nbclient")
        pytest.importorskip("ipykernel")
    import nbformat
    from nbclient import NotebookClient

    assert path.stat().st_size < 200_000
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    held = nbformat.read(path, as_version=4)
    ran = nbformat.read(path, as_version=4)
    NotebookClient(ran, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    for old, new in zip(held.cells, ran.cells, strict=True):
        assert kinds_of(new) == kinds_of(old), old.source
    if path.stem == "first_steps":
        for book in (held, ran):  # the last digits depend on the processor
            printed = "".join(output.get("text", "") for cell in book.cells for output in cell.get("outputs", []))
            (means,) = re.findall(r"mean +(\S+) +(\S+)", printed)
            assert float(means[1]) > float(means[0]) + 0.2


def kinds_of(cell: Any) -> list[list[str]]:
    """Return what a cell has put out, warnings left aside."""
    outputs = (output for output in cell.get("outputs", []) if output.get("name") != "stderr")
    return [sorted(output.get("data", {output.output_type: ""})) for output in outputs]


def shown_commands() -> Iterator[Any]:
    """Yield the lines of ``ong`` in code blocks of the pages and the README."""
    for path in (*PAGES, ROOT / "README.md"):
        for block in re.findall(
            r"^```(?:bash)?\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for line in block.replace("\\\n", " ").splitlines():
                command = re.match(r"(?:\.venv/bin/)?ong ([a-z]+) (.*)", line)
                if command and command[1] in COMMANDS and "[options]" not in line:
                    yield pytest.param(command[1], command[2], id=f"{path.stem}: {line[:60]}")


@pytest.mark.parametrize(("name", "rest"), list(shown_commands()))
def test_a_command_that_a_page_shows_has_arguments_and_options_that_there_are(name: str, rest: str) -> None:
    arguments = shlex.split(re.split(r"\s(?:#|&&)", rest)[0], comments=True)
    COMMANDS[name].make_context(name, arguments)


def literals() -> Iterator[str]:
    """Yield patterns of the texts in the code, with anything in place of what is filled in."""
    for path in (ROOT / "ong").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (re.escape(p.value) if isinstance(p, ast.Constant) else ".*" for p in node.values)
                yield "".join(parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) > 20:
                yield re.escape(node.value)


def test_messages_of_the_faq_are_those_of_the_code() -> None:
    quoted = re.findall(
        r"^```text\n(.*?)\n```", (DOCS / "faq.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert len(quoted) > 10
    patterns = [re.compile(p) for p in literals() if len(p.replace(".*", "")) > 20]
    unknown = [message for message in quoted if not any(pattern.search(message) for pattern in patterns)]
    unknown = [m for m in unknown if not re.fullmatch(r"unknown .+ '.+'; did you mean '.+'\?", m)]  # UnknownNameError
    assert unknown == []


def test_the_sweep_file_and_the_python_of_the_page_on_clusters_are_sound() -> None:
    text = (DOCS / "gpu-and-clusters.md").read_text(encoding="utf-8")
    whole, with_overrides = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert SweepFile.model_validate(tomllib.loads(whole)).runs[0].seeds == "0-4"
    assert len(SweepFile.model_validate(tomllib.loads(with_overrides)).runs[0].overrides) == 2
    (python,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ast.parse(python)  # it needs a cluster
    (script,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
