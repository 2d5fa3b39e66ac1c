"""How a command speaks: as wide as it is told, as much as it is told, and in JSON about errors too."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command import run
from torch import nn

from trcompress.cli.verbs import VERBS


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A checkpoint with long names and large sizes."""
    torch.manual_seed(0)
    layers = nn.ModuleDict({"encoder_of_the_first_modality": nn.LSTM(120, 64, 2, bidirectional=True)})
    path = tmp_path_factory.mktemp("wide") / "a_rather_long_name_of_a_checkpoint.pt"
    torch.save(layers.state_dict(), path)
    return path


def commands(files, wide):
    """Commands whose results are tables."""
    data = ("--data", files["data"])
    return {
        "inspect": ("inspect", wide),
        "plan": ("plan", files["dense"], "--target-ratio", 3),
        "decompose": ("decompose", wide, "--shape", "12x10:8x8", "--ranks", "3", "-o", wide.with_suffix(".tr")),
        "report": ("report", files["ring"]),
        "report -v": ("report", files["ring"], "-v"),
        "reports": ("report", files["ring"], files["ring"]),
        "evaluate": ("evaluate", files["ring"], *data, "--baseline", files["dense"]),
        "bench": ("bench", files["ring"], "--baseline", files["dense"], "--batch", "1", "--seconds", 0.01),
        "recipes": ("reproduce", "--list"),
        "export": ("export", files["ring"], "--onnx", wide.with_suffix(".onnx"), "--overwrite"),
        "doctor": ("doctor",),
    }


WITHOUT_TABLES = {"finetune", "expand", "data", "recipe"}
ELSEWHERE = {"compress": "test_compress_verb.py", "demo": "test_demo.py"}
"""Verbs whose tables come of a run too long to repeat here, and the file that runs them."""


NAMES = list(commands(dict.fromkeys(("data", "dense", "ring")), Path("x.pt")))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("columns", [None, 64, 120])
def test_tables_fit_the_width(files, wide, name, columns):
    environment = {} if columns is None else {"COLUMNS": str(columns)}
    done = run(*commands(files, wide)[name], *["--overwrite"] * (name == "decompose"), **environment)
    assert done.code == 0, done.stderr
    rules = [line for line in done.stdout.splitlines() if "───" in line]
    assert rules or name == "doctor"
    assert max(map(len, rules or done.stdout.splitlines())) <= (columns or 80)
    assert "…" not in done.stdout


def test_every_verb_with_tables_is_among_them():
    assert {name.split()[0] for name in NAMES} - {"reports", "recipes"} == (
        set(VERBS) - WITHOUT_TABLES - set(ELSEWHERE) - {"reproduce"}
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_what_a_recipe_found_fits_the_width(columns, monkeypatch):
    from trcompress.cli.console import plain_text
    from trcompress.cli.render_result import print_result
    from trcompress.reproduce.result import read_result

    folder = Path(__file__).resolve().parent.parent / "results"
    if not folder.is_dir():
        pytest.skip("needs the checkout")
    monkeypatch.setenv("COLUMNS", str(columns))
    for path in folder.glob("*/result.json"):
        text = plain_text(lambda path=path: print_result(read_result(path)))
        assert max(len(line) for line in text.splitlines() if "───" in line) <= columns, path


def test_quiet_says_results_and_errors_alone(files, tmp_path):
    words = ("evaluate", files["ring"], "--data", files["data"])
    loud, quiet = run(*words), run(*words, "-q")
    assert loud.stderr
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout
    trained = run(
        "finetune",
        files["ring"],
        "--data",
        files["data"],
        "--epochs",
        1,
        "-o",
        tmp_path / "t.safetensors",
        "--quiet",
    )
    assert (trained.code, trained.stderr) == (0, "")
    assert "error: no such file" in run("inspect", "missing.pt", "-q").stderr


def test_verbose_shows_where_an_error_came_from():
    assert "Traceback" in run("inspect", "missing.pt", "-v").stderr
    assert "Traceback" not in run("inspect", "missing.pt").stderr
    assert "exclude each other" in run("inspect", "missing.pt", "-v", "-q").stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_takes_both(verb):
    shown = run(verb, "--help").stdout
    assert "--quiet" in shown or "Commands:" in shown


@pytest.mark.parametrize(
    ("words", "code", "kind"),
    [
        (("inspect", "missing.pt", "--format", "json"), 3, "InputFileError"),
        (("inspect", "--format", "json"), 2, "MissingParameter"),
        (("decompose", "x.pt", "--format=json", "--nonsense"), 2, "NoSuchOption"),
        (("decompose", "DENSE", "--format=json", "--shape", "3:4", "--ranks", "2"), 2, "ShapeError"),
    ],
)
def test_an_error_is_a_document_too(files, words, code, kind):
    done = run(*[files["dense"] if word == "DENSE" else word for word in words])
    document = json.loads(done.stdout)
    assert done.code == code
    assert document["schema_version"] == 1
    assert document["error"]["type"] == kind
    assert document["error"]["exit_code"] == code
    assert document["error"]["message"]


@pytest.mark.parametrize("verb", [*VERBS, "data extract", "data make-clips", "recipe show", "recipe copy"])
def test_an_error_of_every_verb_is_a_document(verb):
    done = run(*verb.split(), "--nonsense", "--format", "json")
    document = json.loads(done.stdout)
    assert (done.code, document["schema_version"]) == (2, 1)
    assert document["error"]["exit_code"] == 2
    assert "nonsense" in document["error"]["message"]


def test_a_missed_gate_is_told_in_the_one_document(files):
    words = ("evaluate", files["ring"], "--data", files["data"], "--min-accuracy", 1, "--format", "json")
    done = run(*words)
    document = json.loads(done.stdout)
    assert (done.code, document["error"]["exit_code"]) == (5, 5)
    assert 0 < document["accuracy"] < 1


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("report -v",)])
def test_every_json_document_says_its_schema(files, wide, name):
    words = (*commands(files, wide)[name], *["--overwrite"] * (name == "decompose"))
    assert run(*words, "--format", "json").json["schema_version"] == 1


def test_control_characters_in_a_file_are_spelled_out(tmp_path):
    name = "rnn\x1b]0;owned\x07[bold]x.weight_ih_l0"
    tensors = {name: torch.zeros(16, 6), name.replace("ih", "hh"): torch.zeros(16, 4)}
    np.savez(tmp_path / "odd.npz", **{key: value.numpy() for key, value in tensors.items()})
    done = run("inspect", tmp_path / "odd.npz")
    assert "\x1b" not in done.stdout + done.stderr
    assert "\x07" not in done.stdout + done.stderr


STEERING = "x\x1b[31m\x1b]0;own\x07\u202e[/red]"


def is_plain(text):
    """Whether a terminal would obey nothing of it."""
    return not set(text) & {"\x1b", "\x07", "\u202e"}


def test_a_name_that_steers_is_spelled_out_in_errors_and_tracebacks():
    for words in (("inspect", STEERING), ("inspect", STEERING, "-v"), ("inspect", f"--{STEERING}"), (STEERING,)):
        done = run(*words)
        assert (done.code in (2, 3), is_plain(done.stdout + done.stderr)) == (True, True), done.stderr
        assert r"\x1b[31m" in done.stderr
        assert ("Traceback" in done.stderr) == ("-v" in words)


def test_a_name_that_steers_is_spelled_out_in_results(files, tmp_path):
    ring, own = (tmp_path / f"{STEERING.replace('/', '')}.{end}" for end in ("safetensors", "toml"))
    ring.write_bytes(files["ring"].read_bytes())
    out = ("-o", tmp_path / f"{ring.name}.html")
    for words in (
        ("recipe", "copy", "synthetic-fig5", own),
        ("recipe", "validate", own),
        ("report", ring),
        ("report", ring, "--format", "csv"),
        ("report", ring, "--format", "markdown"),
        ("report", ring, "--format", "html", *out),
        ("report", ring, *out, "--overwrite"),
        ("data", "make-clips", own, "--dry-run"),
    ):
        done = run(*words)
        assert (done.code, is_plain(done.stdout + done.stderr)) == (0, True), done.stderr


def test_a_recipe_is_no_markup_on_the_terminal(monkeypatch):
    import io

    from trcompress.cli import console
    from trcompress.cli.render_result import print_result
    from trcompress.reproduce.result import Claim, Findings, Result
    from trcompress.util.hardware import this_machine

    claim = Claim(text=STEERING, holds=True, evidence=STEERING)
    findings = Findings(data=STEERING, claims=(claim,), notes=(STEERING,))
    named = {"recipe": STEERING, "title": STEERING, "row": STEERING, "command": STEERING}
    result = Result(**named, quick=False, findings=findings, seeds=(0,), machine=this_machine())
    text = console.plain_text(lambda: print_result(result))
    assert is_plain(text)
    assert text.count("[/red]") == 7
    shown = console.ResultConsole(file=io.StringIO(), force_terminal=True, color_system=None)
    monkeypatch.setattr(console, "err", shown)
    with console.progress_bar(STEERING) as update:
        update(STEERING, 0.5)
    assert r"x\x1b[31m" in shown.file.getvalue()
    assert "\x1b]0;own" not in shown.file.getvalue()
