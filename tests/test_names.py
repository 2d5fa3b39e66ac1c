"""One meaning per public name: no class of the package is called like another."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
COURTROOM = {
    "Lesson",
    "Exam",
    "Judge",
    "Ready",
    "Held",
    "Ladder",
    "worthy",
    "settle",
    "enter",
    "even_out",
    "in_disguise",
}
"""Words that say nothing of what is meant; the field has its own."""


def sources() -> dict[str, ast.Module]:
    paths = [path for top in ("trcompress", "cli") for path in (ROOT / top).rglob("*.py")]
    return {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in sorted(paths)}


SOURCES = sources()


def test_no_public_class_name_has_two_meanings():
    places = defaultdict(list)
    for path, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_names_are_the_fields_terms():
    found = {
        f"{path}:{node.lineno}: {node.name}"
        for path, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name.lstrip("_") in COURTROOM
    }
    assert found == set()
