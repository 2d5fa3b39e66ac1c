"""The parts of `trcompress reproduce`: results, their page and pictures, and whole runs."""

import csv
import json
import socket
import subprocess
import sys
from math import prod

import pytest

from trcompress.errors import InputFileError, OutputFileError
from trcompress.reproduce import read_result, reproduce
from trcompress.reproduce.classify import FILE, RATIO, WHOLE
from trcompress.reproduce.complexity import run_complexity
from trcompress.reproduce.context import Context
from trcompress.reproduce.figure7 import figure7
from trcompress.reproduce.formulas import ORDERS
from trcompress.reproduce.plots import Curve, Heatmap, MatrixPlot, Plot, colour_scale, draw, write_numbers
from trcompress.reproduce.recipe import read_recipe
from trcompress.reproduce.result import Claim, Findings, Result, ResultRow, Table, write_result
from trcompress.reproduce.results_page import find_results, results_page
from trcompress.util.hardware import this_machine


def result(**changes):
    findings = Findings(
        data="made here",
        rows=(
            ResultRow(name="a|b", measured=1725, paper={"text": 0.8, "table": 0.7}),
            ResultRow(name="n", measured=0.5, runs=3),
        ),
        claims=(Claim(text="it holds", holds=False, evidence="no"),),
        tables=(Table(title="t", columns=("x", "y"), rows=((1, "z"), (None, 2.5))),),
        plots=(Plot(file="p", title="P", x_label="x", y_label="y", curves=(Curve(name="c", x=(0.0,), y=(1.0,)),)),),
    )
    fields = {"recipe": "r", "title": "t", "row": "Table 1", "quick": False, "findings": findings, "seeds": (0, 1)}
    fields |= {"command": "trcompress reproduce r", "version": "1", "machine": this_machine(), "seconds": 2.0}
    return Result(**(fields | changes))


def test_results_read_back_and_damage_is_refused(tmp_path):
    path = write_result(tmp_path, result())
    assert read_result(path) == result()
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": 1}))
    with pytest.raises(InputFileError, match="colour"):
        read_result(path)
    with pytest.raises(InputFileError, match="no such result"):
        read_result(tmp_path / "none.json")


def test_the_machine_is_described_without_names():
    text = this_machine().model_dump_json()
    assert socket.gethostname() not in text
    assert "/" not in text


def test_the_page_shows_figures_side_by_side_with_commands_and_pictures(tmp_path):
    write_result(_folder(tmp_path / "results" / "b"), result(row="Table 2", recipe="later"))
    write_result(_folder(tmp_path / "results" / "c"), result(row="none", recipe="benchmarks/a.py Flare"))
    first = _folder(tmp_path / "results" / "a")
    write_result(first, result(row="Figure 5", recipe="sooner", quick=True))
    (first / "p.png").write_bytes(b"")
    page = results_page(find_results(tmp_path / "results"), tmp_path)
    assert page.index("## sooner") < page.index("## later"), "in the paper's order"
    assert "| a\\|b | 0.8 (text), 0.7 (table) | 1,725 |" in page
    assert "**does not hold**: it holds. no." in page
    assert "[benchmarks/a.py Flare](#benchmarksapy-flare)" in page
    assert "command: `trcompress reproduce r`" in page
    assert "Rehearsal." in page
    assert page.count("![P](results/a/p.png)") == 1


def table_1_row(method, rows, **changes):
    """A saved row of Table 1 with two seeds' loss curves."""
    curves = tuple(Curve(name=f"group, seed {k}", x=(1.0, 2.0), y=(3.0, 1.0 + 2 * k)) for k in (0, 1))
    plots = (Plot(file="loss", title="", x_label="", y_label="", curves=curves),)
    measured = tuple(ResultRow(name=name, measured=value) for name, value in rows.items())
    found = Findings(data="procedural clips (c)", rows=measured, plots=plots)
    return result(row=f"Table 1 and Figure 7, {method}", findings=found, **changes)


def test_the_rows_of_table_1_are_drawn_together():
    dense = table_1_row("LSTM", {RATIO: 1.0, WHOLE: 1000.0, FILE: 4096.0})
    ring = table_1_row("TR-LSTM", {RATIO: 34192.7, WHOLE: 250.0, FILE: 2048.0})
    left_out = [table_1_row("TT-LSTM", {RATIO: 5.0}, quick=True), result(row="Figure 5")]
    plots = figure7([dense, ring, *left_out])
    assert [plot.file for plot in plots] == ["figure7-compression", "figure7-loss"]
    assert {curve.name: curve.y[0] for curve in plots[0].curves if curve.group == "TR-LSTM"} == {
        "TR-LSTM: input-to-hidden (Eq. 7)": 34192.7,
        "TR-LSTM: whole network, parameters": 4.0,
        "TR-LSTM: whole network, file bytes": 2.0,
    }
    assert {curve.y for curve in plots[0].curves if curve.group == "LSTM"} == {(1.0,)}
    loss = plots[1].curves[1]
    assert (loss.name, loss.y) == ("TR-LSTM, group, mean of 2 seeds", (3.0, 2.0))
    assert loss.spread == pytest.approx((0.0, 2**0.5))
    assert figure7([dense]) == ()


def test_whole_networks_are_drawn_only_beside_the_dense_one():
    rings = [table_1_row(name, {RATIO: 9.0, WHOLE: 250.0}) for name in ("TR-LSTM", "TT-LSTM")]
    assert [curve.name for curve in figure7(rings)[0].curves] == [
        f"{name}: input-to-hidden (Eq. 7)" for name in ("TR-LSTM", "TT-LSTM")
    ]


def _folder(path):
    path.mkdir(parents=True)
    return path


def pictures():
    lines = Plot(
        file="lines",
        title="L",
        x_label="x",
        y_label="y",
        log_x=True,
        log_y=True,
        curves=(Curve(name="c", x=(0.0, 1.0, 10.0), y=(1.0, 2.0, 3.0), spread=(0.1, 0.1, 0.1)),),
    )
    bars = Plot(
        file="bars",
        title="B",
        x_label="",
        y_label="y",
        kind="bars",
        curves=tuple(Curve(name=name, x=(0.0,), y=(value,)) for name, value in (("one", 1.0), ("two", 2.0))),
    )
    square = ((0.0, 1.0), (2.0, 3.0))
    matrices = MatrixPlot(
        file="squares", title="S", matrices=(Heatmap(title="a", values=square), Heatmap(title="b", values=square))
    )
    return (lines, bars), (matrices,)


def test_the_numbers_behind_pictures_are_written_as_csv(tmp_path):
    names = [path.name for path in write_numbers(tmp_path, *pictures())]
    assert names == ["lines.csv", "bars.csv", "squares-0.csv", "squares-1.csv"]
    rows = list(csv.reader((tmp_path / "lines.csv").open()))
    assert rows[0] == ["curve", "x", "y", "standard deviation"]
    assert rows[3] == ["c", "10.0", "3.0", "0.1"]
    assert list(csv.reader((tmp_path / "squares-1.csv").open())) == [["0", "1"], ["2", "3"]]


def test_pictures_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra [plots]")
    paths = draw(tmp_path, *pictures())
    assert [path.name for path in paths] == ["lines.png", "bars.png", "squares.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_outliers_do_not_set_the_scale_of_matrices():
    rows = [[0.5 * (-1) ** (i + j) for j in range(20)] for i in range(20)]
    rows[3][4] = 1000.0
    first = Heatmap(title="a", values=tuple(map(tuple, rows)))
    low, high = colour_scale([first, first])
    assert (low, high) == (-0.5, 0.5), "the outlier is clipped, and 0 is in the middle"
    assert colour_scale([Heatmap(title="b", values=((1.0, 3.0), (2.0, 3.0)))]) == (1.0, 3.0)


def tiny_recipe(tmp_path):
    text = read_recipe("synthetic-fig6").text.partition("[synthetic]")[0] + (
        "[synthetic]\nnoise_variances = [0.05]\n[[synthetic.readings]]\n"
        'name = "r"\nabout = ""\nweight = "ring"\nweight_rank = 1\nrank = 1\nsteps = 2\nstarts = 1\n'
    )
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return read_recipe(path).resolve(settings=["seeds=[0]"])


def test_a_run_leaves_recipe_result_and_numbers_and_replaces_nothing_unasked(tmp_path):
    recipe = tiny_recipe(tmp_path)
    done = reproduce(recipe, tmp_path / "out", command="as typed", quick=True)
    assert read_recipe(tmp_path / "out" / "recipe.toml").resolve() == recipe
    saved = read_result(tmp_path / "out" / "result.json")
    assert saved == done.result
    assert (saved.command, saved.quick, saved.seeds) == ("as typed", True, (0,))
    with pytest.raises(OutputFileError, match="must be new or empty"):
        reproduce(recipe, tmp_path / "out")
    reproduce(recipe, tmp_path / "out", overwrite=True)
    with pytest.raises(OutputFileError, match="must be a folder"):
        reproduce(recipe, tmp_path / "tiny.toml")


def test_the_same_seed_gives_the_same_figures(tmp_path):
    recipe = tiny_recipe(tmp_path)
    first, second = (reproduce(recipe, tmp_path / name).result.findings for name in "ab")
    figures = [[row.measured for row in found.rows] for found in (first, second)]
    assert figures[0] == pytest.approx(figures[1], rel=1e-9)


def test_without_matplotlib_numbers_are_kept_and_the_result_says_so(tmp_path):
    code = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from pathlib import Path\n"
        "from trcompress.reproduce.recipe import read_recipe\n"
        "from trcompress.reproduce import reproduce\n"
        "recipe = read_recipe('synthetic-fig6').resolve(quick=True)\n"
        "done = reproduce(recipe, sys.argv[1])\n"
        "print(done.result.findings.notes[-1])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "out"], capture_output=True, text=True, check=False
    )
    assert "pip install trcompress[plots]" in ran.stdout, ran.stderr
    assert list((tmp_path / "out").glob("*.csv"))
    assert not list((tmp_path / "out").glob("*.png"))


def test_table_4_in_the_recipe_is_what_is_computed():
    printed = read_recipe("table4-complexity").resolve().paper
    assert {name: tuple(line.values()) for name, line in printed.items()} == {
        f"{method} {way}": (getattr(order, way)[0], getattr(order, f"{way}_memory")[0])
        for method, order in ORDERS.items()
        for way in ("forward", "backward")
    }


def test_table_4_is_measured_below_its_formulas(tmp_path):
    recipe = read_recipe("table4-complexity").resolve(quick=True)
    findings = run_complexity(recipe, Context(tmp_path))
    table = {
        row[:2]: dict(zip(findings.tables[0].columns[2::2], row[2::2], strict=True))
        for row in findings.tables[0].rows
    }
    inputs, outputs = prod(recipe.complexity.in_modes), prod(recipe.complexity.out_modes)
    assert table["RNN", 2]["forward operations"] == inputs * outputs
    assert table["RNN", 2]["backward operations"] == 2 * inputs * outputs
    assert table["TR-RNN", 2]["forward operations"] == 832, "Eq. 11 by hand: 256 + 128 + 32, then 32 + 128 + 256"
    verdicts = {claim.text: claim.holds for claim in findings.claims}
    assert all(
        verdicts[f"TR-RNN, {what}: O({order})"]
        for what, order in (
            ("forward operations", "n I R^3 + m O R^3"),
            ("backward operations", "n d I R^5 + m d Imax O R^5"),
        )
    )
    assert len(findings.plots) == 8
