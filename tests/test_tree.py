"""The tree reads as the data flow: folders import downwards only, no two files import each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = (
    "version",
    "errors",
    "util",
    "formats",
    "model",
    "checkpoint",
    "decomposition",
    "data",
    "layers",
    "artifact",
    "network",
    "training",
    "calibration",
    "search",
    "passes",
    "deploy",
    "timing",
    "reproduce",
    "cli",
)
"""Folders and loose modules of the package; each may import itself and what stands before it."""

LOOSE = {"__init__", "__main__", "errors", "version"}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name, `trcompress.cli` included."""
    found = {}
    for top, name in (("trcompress", "trcompress"), ("cli", "trcompress.cli")):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            found[".".join((name, *parts)).removesuffix(".__init__")] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """What a file imports of the package, at any depth: function bodies are read too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in whole}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "trcompress"}


MODULES = modules()
IMPORTS = {name: imports(path, MODULES) for name, path in MODULES.items()}


def folder(name: str) -> str:
    return name.split(".")[1] if "." in name else ""


def test_only_four_modules_lie_loose_at_the_top() -> None:
    assert {path.stem for path in (ROOT / "trcompress").glob("*.py")} == LOOSE


def test_every_folder_has_its_place_in_the_order() -> None:
    assert {folder(name) for name in MODULES} - {"", "__main__"} <= set(ORDER)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"trcompress", "trcompress.__main__"}))
def test_imports_point_one_way(name: str) -> None:
    place = ORDER.index(folder(name))
    upwards = [one for one in IMPORTS[name] if folder(one) and ORDER.index(folder(one)) > place]
    assert not upwards, f"{name} imports {upwards}, which stand above it"


def test_no_two_files_import_each_other() -> None:
    """Depth-first: a module met again while it is still open closes a circle."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for one in sorted(IMPORTS.get(name, ())):
                visit(one, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
