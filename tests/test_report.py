"""A report in every format: equal figures everywhere, nothing from a file is obeyed, and the page looks right."""

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
import yaml
from browser import open_browser
from command import run
from small_task import write_files
from torch import nn

import trcompress
from trcompress.artifact.document import report_document
from trcompress.artifact.file import Artifact, read_artifact
from trcompress.artifact.rendering import RENDERERS
from trcompress.artifact.rendering.html import value_at
from trcompress.artifact.report import make_report
from trcompress.artifact.write import write_artifact
from trcompress.util.figures import spell
from trcompress.util.text import visible

EVIL = '=1+1"</script><script>alert(1)</script>|`[red]\x1b[31m\n# x'


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A dense network, a ring, the ring fine-tuned, and a benchmark and an evaluation of it."""
    folder = tmp_path_factory.mktemp("report")
    paths = write_files(folder)
    paths["tuned"] = folder / "tuned.safetensors"
    task = ("--data", paths["data"], "--data-option", "validation_fraction=0.25")
    words = ("--teacher", paths["dense"], "--epochs", 3, "-o", paths["tuned"], "-q")
    assert run("finetune", paths["ring"], *task, *words).code == 0
    for name, words in (
        ("bench", ("bench", paths["tuned"], "--baseline", paths["dense"], "--batch", 2, "--seconds", 0.01)),
        ("evaluation", ("evaluate", paths["ring"], "--baseline", paths["dense"], *task)),
    ):
        done = run(*words, "--format", "json")
        assert done.code == 0, done.stderr
        paths[name] = folder / f"{name}.json"
        paths[name].write_text(done.stdout)
    return paths


PASSES = (
    {"kind": "fold", "name": "embed.weight", "before": "12 wide", "after": "8 wide", "damage": 0.0},
    {"kind": "units", "name": "rnn", "before": "40 units", "after": "24 units", "damage": None},
    {"kind": "rounding", "name": "rnn.weight_hh_l0", "before": "as it is", "after": "int4", "damage": 5.6732e-05},
)


@pytest.fixture(scope="module")
def document(files):
    one = make_report(files["tuned"], results=[files["bench"]])
    two = make_report(files["ring"], results=[files["evaluation"]])
    rounded = replace(two, artifact="rounded.safetensors", passes=PASSES, weights=())
    return report_document([one, two, rounded])


def hostile_report(tmp_path):
    """An artifact whose every name is an attack."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="2")})
    artifact = read_artifact(trcompress.save(model, tmp_path / "plain.safetensors"))
    header = artifact.header.model_copy(
        update={"metrics": {"measured_on": EVIL, "accuracy_after": 0.5, EVIL: EVIL}}
    )
    tensors = artifact.tensors | {EVIL: torch.ones(2)}
    path = write_artifact(tmp_path / "=evil<b>.safetensors", Artifact(tensors, header))
    return make_report(path)


class Elements(HTMLParser):
    """Collects all elements with their attributes and text, and what would load or run something."""

    def __init__(self):
        super().__init__()
        self.found, self.open, self.outside = [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.found.append((tag, attrs, []))
        self.open.append(self.found[-1])
        if tag in ("link", "img", "script", "iframe", "object"):
            self.outside.append((tag, attrs))

    def handle_endtag(self, tag):
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self.open:
            self.open[-1][2].append(data)


def parsed(page):
    elements = Elements()
    elements.feed(page)
    return elements


def test_the_report_says_where_bytes_sit_and_what_was_measured(files, document):
    one, two, _ = document["reports"]
    assert sum(part["bytes_before"] for part in one["parts"]) == one["tensor_bytes_before"]
    assert sum(part["bytes_after"] for part in one["parts"]) == one["tensor_bytes_after"]
    assert sum(tensor["before"] for tensor in one["tensors"]) == one["parameters_before"]
    assert one["bytes_ratio"] == one["tensor_bytes_before"] / files["tuned"].stat().st_size
    assert one["file_bytes_before"] == one["tensor_bytes_before"] + one["other_bytes_before"]
    assert set(one["evaluations"]) == {"dense", "decomposed", "compressed"}
    assert one["evaluations"]["compressed"]["accuracy"] == one["metrics"]["accuracy_after"]
    assert [epoch["epoch"] for epoch in one["curves"]] == [0, 1, 2, 3]
    assert one["latency"]["timings"][0]["batch"] == 2
    assert set(two["evaluations"]) == {"dense", "compressed"}
    assert two["latency"] is None


def test_what_finetune_left_beside_another_artifact_is_not_shown(files, tmp_path):
    path = tmp_path / "tuned.safetensors"
    path.write_bytes(files["ring"].read_bytes())
    path.with_suffix(".metrics.json").write_bytes(files["tuned"].with_suffix(".metrics.json").read_bytes())
    assert make_report(path).to_dict()["curves"] == []


def test_the_front_holds_what_nothing_beats(document):
    points = document["front"]
    assert {point["role"] for point in points} == {"dense", "compressed"}
    for point in points:
        beaten = [
            other
            for other in points
            if other["bytes"] <= point["bytes"] and other["accuracy"] >= point["accuracy"] and other != point
        ]
        assert point["best"] == (
            not [
                other
                for other in beaten
                if other["bytes"] < point["bytes"] or other["accuracy"] > point["accuracy"]
            ]
        )


def test_every_number_on_the_page_is_that_of_the_json(document):
    page = parsed(RENDERERS["html"](document))
    assert page.outside[0][1] == {"rel": "icon", "href": "data:,"}
    assert [(tag, attrs.get("type")) for tag, attrs in page.outside[1:]] == [("script", "application/json")]
    marks = [(attrs, "".join(text)) for _, attrs, text in page.found if "data-path" in attrs]
    assert len(marks) > 150
    for attrs, text in marks:
        value = value_at(document, attrs["data-path"])
        assert json.loads(attrs["data-value"]) == value
        if "data-spelling" in attrs:
            assert text == spell(value, attrs["data-spelling"])
    for _, attrs, text in page.found:
        if "data-length" in attrs:
            assert int("".join(text)) == len(value_at(document, attrs["data-length"]))
    ((_, _, embedded),) = [one for one in page.found if one[1].get("id") == "report"]
    assert json.loads("".join(embedded)) == document


def test_no_number_stands_on_the_page_by_itself(document):
    """Digits lie in elements that name their value, on axes, or in texts that the JSON holds as they are."""
    texts = json.dumps(document, ensure_ascii=False) + json.dumps(document, separators=(",", ":"))
    for tag, attrs, text in parsed(RENDERERS["html"](document)).found:
        words = " ".join("".join(text).split())
        known = (
            {"data-path", "data-length"} & set(attrs) or attrs.get("class") == "tick" or tag in ("style", "script")
        )
        if known or not re.search(r"\d", words):
            continue
        for word in re.findall(r"\S*\d\S*", re.sub(r"Eq\. 7|sha256|top-5", "", words)):
            assert word.strip(",.()") in texts or word.strip(",") == trcompress.__version__ + ";", (word, words)


def test_passes_are_shown_and_a_section_without_matrices_is_not(files, document):
    rounded = document["reports"][2]
    page = RENDERERS["html"](rounded)
    assert "Every compressed matrix" not in page
    assert "alone (Eq. 7)" not in page
    texts = ["".join(text) for _, _, text in parsed(page).found]
    assert {"fold", "12 wide", "40 units", "int4", "5.67e-05"} <= set(texts)
    card = RENDERERS["markdown"](rounded)
    assert "| rounding | rnn.weight\\_hh\\_l0 | as it is | int4 | 5.67e-05 |" in card
    assert "Compressed matrices" not in card
    assert "What passes did" not in RENDERERS["html"](document["reports"][0])


def test_parts_of_both_bars_share_one_scale(document):
    page = parsed(RENDERERS["html"](document))
    widths = [float(attrs["style"][6:-1]) for tag, attrs, _ in page.found if attrs.get("class") == "stack"]
    one = document["reports"][0]
    assert widths[0] == 100
    assert widths[1] == pytest.approx(100 * one["tensor_bytes_after"] / one["tensor_bytes_before"], abs=0.01)


CUT_OFF = """
return [...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth)
  .map(one => one.textContent.trim().slice(0, 60));
"""


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_and_is_silent(document, tmp_path, width, dark):
    path = tmp_path / "report.html"
    path.write_text(RENDERERS["html"](document), encoding="utf-8")
    with open_browser() as browser:
        browser.open(path, width=width, dark=dark)
        assert browser.overflowing() == []
        assert browser.run("return document.documentElement.scrollWidth") <= width
        assert browser.run(CUT_OFF) == []
        assert browser.console() == []
        assert browser.run("return performance.getEntriesByType('resource').length") == 0
        background = browser.run("return getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(255, 255, 255)") is not dark
        browser.screenshot(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000
        path.write_text(RENDERERS["html"](hostile_report(tmp_path).to_dict()), encoding="utf-8")
        browser.open(path, width=width, dark=dark)
        assert browser.overflowing() == []
        assert browser.console() == []


def test_no_name_from_a_file_becomes_markup(tmp_path):
    report = hostile_report(tmp_path).to_dict()
    html = RENDERERS["html"](report)
    page = parsed(html)
    assert [tag for tag, _ in page.outside] == ["link", "script"]
    assert visible(EVIL.split("\n")[0]) in "".join("".join(text) for _, _, text in page.found)
    assert not set(html) & set(map(chr, [*range(9), *range(11, 32), 127]))


def test_no_name_from_a_file_becomes_a_formula(tmp_path):
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"](hostile_report(tmp_path).to_dict()))))
    names = [row["name"] for row in rows]
    assert f"'{visible(EVIL)}" in names
    assert not [cell for row in rows for cell in row.values() if cell.startswith(("=", "+", "@"))]
    assert [row["level"] for row in rows[:2]] == ["model", "matrix"]


def test_the_table_holds_the_numbers_of_the_json(document):
    rows = list(csv.DictReader(io.StringIO(RENDERERS["csv"](document))))
    models = [row for row in rows if row["level"] == "model"]
    for row, report in zip(models, document["reports"], strict=True):
        assert float(row["ratio"]) == report["model_ratio"]
        assert int(row["bytes_after"]) == report["file_bytes_after"]
        assert float(row["accuracy"]) == report["evaluations"]["compressed"]["accuracy"]


def test_the_model_card_is_front_matter_and_plain_markdown(document, tmp_path):
    card = RENDERERS["markdown"](document["reports"][0])
    _, matter, body = card.split("---\n", 2)
    read = yaml.safe_load(matter)
    assert read["library_name"] == "trcompress"
    assert read["metrics"] == ["accuracy"]
    (result,) = read["model-index"][0]["results"]
    assert {"type", "name"} <= set(result["dataset"])
    assert result["task"]["type"]
    accuracy = document["reports"][0]["evaluations"]["compressed"]["accuracy"]
    assert result["metrics"] == [{"type": "accuracy", "value": accuracy}]
    assert spell(document["reports"][0]["bytes_ratio"], "ratio") in body
    hostile = RENDERERS["markdown"](hostile_report(tmp_path).to_dict())
    yaml.safe_load(hostile.split("---\n", 2)[1])
    assert "<script>" not in re.sub(r"\\.", "", hostile.split("---\n", 2)[2])
    assert "\x1b" not in hostile
    assert not re.search(r"^# x", hostile, re.M)


def test_a_terminal_shows_names_and_obeys_none(tmp_path):
    report = hostile_report(tmp_path)
    done = run("report", report.artifact, "-v")
    assert done.code == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "[red]\\x1b" in done.stdout.replace("\n", "")


def test_the_short_report_is_short_and_v_tells_all(files):
    short = run("report", files["tuned"]).stdout
    assert len(short.splitlines()) < 25
    assert "classify.weight" not in short
    assert "accuracy: dense" in short
    assert "classify.weight" in run("report", files["tuned"], "-v").stdout


@pytest.mark.parametrize("name", ["markdown", "html", "csv", "json", "human"])
def test_every_format_can_be_written_to_a_file(files, tmp_path, name):
    out = tmp_path / "out"
    words = ("report", files["tuned"], files["ring"], "--format", name, "-o", out)
    assert run(*words).code == 0
    assert out.read_text(encoding="utf-8").strip()
    assert "the output exists" in run(*words).stderr
    assert run(*words, "--overwrite").code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a result of trcompress"),
        ('{"timings": [{"batch": "x"}]}', "is not a result of trcompress"),
        ("[" * 100_000, "is not a result of trcompress"),
    ],
)
def test_other_files_are_no_results(files, tmp_path, text, message):
    (tmp_path / "odd.json").write_text(text)
    done = run("report", files["tuned"], "--results", tmp_path / "odd.json")
    assert message in done.stderr


def test_results_of_another_artifact_are_refused(files):
    done = run("report", files["ring"], "--results", files["bench"])
    assert "was measured on 'tuned.safetensors'" in done.stderr


def test_a_zero_weight_has_a_report(tmp_path):
    torch.save({"weight_ih_l0": torch.zeros(32, 12), "weight_hh_l0": torch.ones(32, 8)}, tmp_path / "zero.pt")
    words = ("--kind", "lstm", "--shape", "4x3:4x2", "--ranks", "2", "-o", tmp_path / "zero.tr.safetensors")
    assert run("decompose", tmp_path / "zero.pt", *words).code == 0
    done = run("report", tmp_path / "zero.tr.safetensors", "--baseline", tmp_path / "zero.pt", "--format", "json")
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["weights"][0]["error_now"] == 0


def test_a_file_without_a_history_is_said_to_have_none(tmp_path):
    torch.manual_seed(0)
    small = trcompress.TRLSTM(12, 8, shape="4x3:4x2", ranks="2")
    trcompress.save(small, tmp_path / "small.safetensors")
    page = RENDERERS["html"](report_document([make_report(tmp_path / "small.safetensors")]))
    assert "its history is not in the file" in page
    assert "made in Python" not in page


def test_a_report_printed_in_python_is_short(files):
    told = repr(make_report(files["ring"]))
    assert "Eq. 7" in told
    assert "weight_ih_l0" in told
    assert len(told) < 2000
