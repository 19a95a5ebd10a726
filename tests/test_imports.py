"""Imports go one way: cli → experiments → {plugins, integrations, streams, natural} → methods → projection → curvature."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "ong"
BELOW_METHODS = {"projection", "curvature", "errors", "threads", "waiting", "extensions"}
MAY_IMPORT = {
    "errors": set(),
    "threads": set(),
    "waiting": set(),
    "files": {"errors"},
    "console": {"errors", "files"},
    "extensions": {"errors"},
    "quantities": {"errors"},
    "metrics": {"errors", "extensions", "quantities"},
    "curvature": {"errors", "threads", "waiting", "extensions"},
    "projection": {"curvature", "errors", "threads", "waiting"},
    "methods": BELOW_METHODS,
    "natural": {"methods", *BELOW_METHODS},
    "streams": {"errors", "extensions"},
    "plugins": {"methods", "streams", "quantities", *BELOW_METHODS},
    "integrations": {"methods", *BELOW_METHODS},
    "report": {"metrics", "errors", "files", "extensions", "quantities"},
    "experiments": {
        "plugins", "integrations", "natural", "streams", "methods", "report", "metrics", "files", "console", "quantities", *BELOW_METHODS,
    },
}  # fmt: skip
OF_ONE_PART = {
    "avalanche": {"plugins", "streams", "experiments"},
    "lightning": {"integrations"},
    "transformers": {"integrations"},
}


def files(part: str) -> list[Path]:
    root = PACKAGE / part
    found = sorted(root.rglob("*.py")) if root.is_dir() else [PACKAGE / f"{part}.py"]
    assert found
    return found


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8")))


def imports(part: str) -> set[str]:
    """Every module that the files of a part import, at whatever depth in them."""
    found: set[str] = set()
    for path in files(part):
        for node in nodes(path):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path} imports relatively"
                found.add(node.module)
    return found


def test_every_part_is_in_the_table() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert parts - {"__init__", "__main__", "cli"} == set(MAY_IMPORT)


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_what_lies_below_it(part: str) -> None:
    ours = {name.split(".")[1] for name in imports(part) if name.startswith("ong.")}
    assert ours <= MAY_IMPORT[part] | {part}


@pytest.mark.parametrize("library", OF_ONE_PART)
def test_a_framework_is_known_to_its_own_parts_alone(library: str) -> None:
    knowing = {part for part in MAY_IMPORT if library in {name.split(".")[0] for name in imports(part)}}
    assert knowing == OF_ONE_PART[library]


def replaced(path: Path) -> Iterator[str]:
    """Places where a file gives something else than ``self`` another forward, class or storage."""
    for node in nodes(path):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if (
                isinstance(target, ast.Attribute)
                and target.attr in ("forward", "__class__", "data")
                and not (isinstance(target.value, ast.Name) and target.value.id == "self")
            ):
                yield f"{path.name}: {ast.unparse(target)}"
            if isinstance(target, ast.Subscript) and ast.unparse(target.value).endswith("._parameters"):
                yield f"{path.name}: {ast.unparse(target)}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).split(".")[-1]
            if name in ("register_parametrization", "swap_tensors", "register_parameter", "set_"):
                yield f"{path.name}: {name}"


@pytest.mark.parametrize("part", ["curvature", "projection", "methods", "plugins", "integrations"])
def test_the_users_layers_keep_their_forward_class_and_storage(part: str) -> None:
    assert [place for path in files(part) for place in replaced(path)] == []


def test_a_replaced_forward_class_or_storage_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text(
        "layer.forward = f\nlayer.__class__ = C\np.data = q\nm._parameters['a'] = p\np.set_(q)\nself.data = d\n"
    )
    assert len(list(replaced(path))) == 5
