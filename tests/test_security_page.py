"""Every promise of SECURITY.md names tests, and they are there."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_each_promise_names_tests_that_exist():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| **")]
    assert len(rows) >= 10
    for row in rows:
        named = re.findall(r"`(tests/test_\w+\.py)::(test_\w+)`", row)
        assert named, row
        for path, name in named:
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, name


def test_reliability_has_the_sections_that_campaigns_fill():
    page = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
    for name in ("fuzz", "kills"):
        counts = page.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end of {name} -->")[0]
        assert "| **all** |" in counts, f"{name} holds no counts"
