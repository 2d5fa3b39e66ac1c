"""Every block of code of the documentation runs, page by page, and the site builds without a warning."""

import html
import json
import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from command import run

import trcompress

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"reading.md", "your-code.md"}
"""Without code, and run by test_your_code.py."""
PAGES = sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in ELSEWHERE)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.S | re.M)


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def run_python(code, space, name):
    """Run a block from a file of its own: torch.jit.script reads sources."""
    path = Path(f"{name}.{len(list(Path.cwd().glob(f'{name}.*')))}.py").absolute()
    path.write_text(code, encoding="utf-8")
    exec(compile(code, str(path), "exec"), space)


def run_console(block):
    for line in block.splitlines():
        assert line.startswith("$ "), f"a console block holds commands that begin with $: {line}"
        words = shlex.split(line[2:])
        assert words[0] == "trcompress"
        done = run(*words[1:])
        assert done.code == 0, f"{line}\n{done.stderr}"
        assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_block_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {"__name__": page.stem}
    for language, code in blocks(page):
        if language == "python":
            run_python(code, space, page.stem)
        elif language == "console":
            run_console(code)


def test_a_block_is_of_a_kind_that_is_run_or_is_no_code():
    for page in PAGES:
        assert {language for language, _ in blocks(page)} <= {"python", "console", "text", "toml", "json"}, (
            page.name
        )


def test_every_public_name_has_its_place_in_the_api():
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: ([\w.]+)$", page, re.M)
    found = {getattr(import_module(path.rpartition(".")[0]), path.rpartition(".")[2]) for path in named}
    public = {getattr(trcompress, name) for name in trcompress.__all__ if name != "__version__"}
    assert not public - found, "docs/api.md lacks them"
    assert len(named) == len(set(named))


def test_the_notebook_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text(encoding="utf-8"))["cells"]
    space = {"__name__": "tour"}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            run_python("".join(cell["source"]), space, "tour")
    shown = capsys.readouterr().out
    assert "accuracy_after" in shown
    assert space["tuned"].metrics["accuracy_after"] > space["tuned"].metrics["accuracy_before"]


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path, monkeypatch):
    config = pytest.importorskip("mkdocs.config", reason="needs the extra [docs]")
    build = pytest.importorskip("mkdocs.commands.build")
    pytest.importorskip("mkdocstrings")
    monkeypatch.chdir(ROOT)
    found = config.load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path / "site"), strict=True)
    build.build(found)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) >= 10
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)"', text)
        assert not loaded, (page, loaded)
    api = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("compress_", "to_plain", "export", "from_pretrained", "finetune"):
        assert name in api
    layer = api[
        api.index('id="trcompress.layers.recurrent.TRLSTM"') : api.index('id="trcompress.layers.recurrent.TRGRU"')
    ]
    text = html.unescape(re.sub(r"<[^>]+>", "", layer))
    assert text.count("Raises:") == text.count("Parameters:") == 1
    assert re.search(r"ranks\s*\(Ranks.*\)\s*–\s*as text", text, re.DOTALL)
    assert ">>> layer = TRLSTM(57600" in text
    assert "hidden_size: int" in text
