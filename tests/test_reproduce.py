"""The parts of `trcompress reproduce`: fitting, counting, the papers' contractions, results and pictures."""

import csv
import json
import socket
import subprocess
import sys
from itertools import pairwise
from math import prod
from statistics import fmean

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trcompress.errors import InputFileError, OutputFileError
from trcompress.formats import BlockTerm, TensorRing, TensorTrain
from trcompress.reproduce import read_result, reproduce
from trcompress.reproduce.classify import FILE, RATIO, WHOLE
from trcompress.reproduce.complexity import run_complexity
from trcompress.reproduce.context import Context
from trcompress.reproduce.counting import PeakMemory, cost_of
from trcompress.reproduce.figure7 import figure7
from trcompress.reproduce.formulas import ORDERS
from trcompress.reproduce.paper_order import apply_in_order
from trcompress.reproduce.plots import Curve, Heatmap, MatrixPlot, Plot, colour_scale, draw, write_numbers
from trcompress.reproduce.random_features import random_network
from trcompress.reproduce.recipe import read_recipe
from trcompress.reproduce.recipe_fields import PaperReading
from trcompress.reproduce.regression import Samples, adam, als, core_design, linear_regression, random_cores
from trcompress.reproduce.result import Claim, Findings, Result, ResultRow, Table, write_result
from trcompress.reproduce.results_page import find_results, results_page
from trcompress.reproduce.synthetic import (
    METHODS,
    draw_samples,
    expected_linear_rmse,
    run_synthetic,
    structure_of,
    true_weight,
)
from trcompress.util.hardware import this_machine

STRUCTURES = (
    TensorRing((3, 2), (2, 4), (2, 3, 2, 3, 2)),
    TensorTrain((3, 2), (2, 4), (1, 3, 1)),
    BlockTerm((3, 2), (2, 4), 2, 2),
)


def literal(**changes):
    return PaperReading(**({"name": "a", "about": "", "weight": "ring", "weight_rank": 2, "rank": 2} | changes))


def samples(structure, *, count=60, noise=0.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in structure.core_shapes]
    weight = structure.to_dense(cores)
    x = torch.randn(count, weight.shape[0], generator=generator, dtype=torch.float64)
    return weight, Samples(x, x @ weight + noise * torch.randn(count, weight.shape[1], generator=generator))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda one: one.kind)
def test_core_design_is_the_derivative_of_the_dense_weight(structure):
    generator = torch.Generator().manual_seed(0)
    cores = random_cores(structure, generator, 1.0)
    for k, core in enumerate(cores):
        design = core_design(structure, cores, k)
        rebuilt = torch.einsum("p,pio->io", core.flatten(), design)
        torch.testing.assert_close(rebuilt, structure.to_dense(cores))


@pytest.mark.parametrize("structure", STRUCTURES, ids=lambda one: one.kind)
def test_als_recovers_what_it_can_represent(structure):
    weight, drawn = samples(structure)
    fits = [als(drawn, structure, sweeps=100, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    best = min(fits, key=lambda fit: fit.loss)
    assert (best.weight - weight).norm() < 1e-3 * weight.norm()


def test_als_error_never_rises():
    structure = TensorRing((3, 3), (3, 3), (2,) * 5)
    _, drawn = samples(TensorRing((3, 3), (3, 3), (4,) * 5), noise=0.5)
    losses = [
        als(drawn, structure, sweeps=n, generator=torch.Generator().manual_seed(1)).loss for n in range(1, 12)
    ]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(losses))


def test_adam_descends_for_a_free_matrix_and_a_ring_alike():
    structure = TensorRing((3, 2), (2, 4), (2, 2, 2, 2, 2))
    weight, drawn = samples(structure, count=200)
    for fitted in (None, structure):
        fit = adam(drawn, fitted, steps=800, batch_size=32, lr=0.05, generator=torch.Generator().manual_seed(0))
        assert (fit.weight - weight).norm() < 0.2 * weight.norm()


def test_linear_regression_errs_as_theory_says():
    reading = literal(weight="matrix", samples=400)
    errors = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        weight = true_weight(reading, generator)
        drawn = draw_samples(weight, reading.samples, 0.5, 0.05, generator)
        errors.append(float((linear_regression(drawn).weight - weight).square().mean().sqrt()))
    assert fmean(errors) == pytest.approx(expected_linear_rmse(reading, 0.5, 0.05), rel=0.03)


def test_the_printed_0_16_cannot_be_least_squares_on_3200_samples():
    assert expected_linear_rmse(literal(), 0.5, 0.05) == pytest.approx(0.00566, abs=1e-5)
    assert expected_linear_rmse(literal(rms=0.0354, error="relative"), 0.5, 0.05) == pytest.approx(0.16, abs=5e-4)


@pytest.mark.parametrize(("weight", "rank"), [("ring", 81), ("matrix", 3), ("picture", 4)])
def test_true_weights_have_the_size_and_rank_that_the_reading_says(weight, rank):
    drawn = true_weight(literal(weight=weight, weight_rank=3, rms=0.25), torch.Generator().manual_seed(0))
    assert drawn.square().mean().sqrt() == pytest.approx(0.25)
    assert int(torch.linalg.matrix_rank(drawn)) == min(rank, 9 if weight == "ring" else rank)


def test_every_method_fits_an_81_by_81_weight():
    for method in METHODS:
        structure = structure_of(method, 2)
        if structure is not None:
            assert prod(structure.in_modes) == prod(structure.out_modes) == 81


def test_the_synthetic_runner_judges_each_reading_by_itself(tmp_path):
    recipe = read_recipe("synthetic-fig5").resolve(quick=True)
    told = []
    findings = run_synthetic(recipe, Context(tmp_path, lambda what, share: told.append(share)))
    rows = {row.name: row.measured for row in findings.rows}
    ring, linear, train = (
        rows[f"planted-ring: absolute RMSE, {m}"] for m in ("tensor-ring", "linear", "tensor-train")
    )
    assert ring < 0.002 < 0.005 < linear < 0.007 < 0.3 < train
    verdicts = {claim.text.partition(":")[0]: claim.holds for claim in findings.claims if "TR < LR" in claim.text}
    assert verdicts == {"planted-ring": True, "few-samples": False}
    assert [len(one.matrices) for one in findings.matrix_plots] == [5, 5]
    assert told == sorted(told)


@st.composite
def structures(draw):
    sizes = st.integers(1, 4)
    n, m = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["ring", "train", "block-term"]))
    in_modes = tuple(draw(sizes) for _ in range(n))
    if kind == "ring":
        out_modes = tuple(draw(sizes) for _ in range(m))
        ranks = [draw(st.integers(1, 3)) for _ in range(n + m)]
        return TensorRing(in_modes, out_modes, (*ranks, ranks[0]))
    out_modes = tuple(draw(sizes) for _ in range(n))
    if kind == "train":
        return TensorTrain(in_modes, out_modes, (1, *(draw(st.integers(1, 3)) for _ in range(n - 1)), 1))
    return BlockTerm(in_modes, out_modes, draw(st.integers(1, 3)), draw(st.integers(1, 2)))


@settings(deadline=None, max_examples=60)
@given(structure=structures(), batch=st.integers(1, 3))
def test_contraction_in_the_papers_order_is_the_dense_product(structure, batch):
    generator = torch.Generator().manual_seed(0)
    cores = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in structure.core_shapes]
    x = torch.randn(batch, prod(structure.in_modes), generator=generator, dtype=torch.float64)
    torch.testing.assert_close(apply_in_order(structure, x, cores), x @ structure.to_dense(cores))


def test_eq_11_in_the_papers_order_costs_what_design_measured():
    ring = TensorRing((4, 2, 5, 8, 6, 5, 3, 2), (16, 4, 2, 4, 2), (10, *[5] * 12, 10))

    def prepare():
        cores = [torch.zeros(shape, requires_grad=True) for shape in ring.core_shapes]
        return lambda x: apply_in_order(ring, x, cores)

    cost = cost_of(prepare, torch.zeros(1, 57600))
    assert 8.9e6 < cost.forward < 9.0e6
    assert cost.backward == 2 * cost.forward
    assert cost.forward_bytes >= 720_000 * 4


def test_operations_and_memory_are_counted_exactly():
    def prepare():
        weight = torch.ones(3, 5, requires_grad=True)
        return lambda x: x @ weight

    cost = cost_of(prepare, torch.ones(2, 3))
    assert (cost.forward, cost.backward) == (30, 60)
    assert cost.forward_bytes == 2 * 5 * 4
    assert cost.backward_bytes == 4 * (10 + 6 + 15), "the result, and the gradients of x and w"


def test_memory_that_is_let_go_is_not_counted_twice():
    memory = PeakMemory()
    with memory:
        for _ in range(5):
            value = torch.zeros(1000)
            del value
        kept = torch.zeros(10)
    assert memory.peak == 4000
    assert memory.alive == 40
    assert kept.numel() == 10


def test_the_random_network_is_the_same_everywhere_and_tells_places_apart():
    torch.manual_seed(5)
    images = torch.rand(4, 3, 120, 160)
    first = random_network(2048)(images)
    torch.manual_seed(6)
    torch.testing.assert_close(random_network(2048)(images), first)
    assert first.shape == (4, 2048)
    moved = torch.zeros(2, 3, 120, 160)
    moved[0, :, 10:30, 10:30] = moved[1, :, 80:100, 120:140] = 1
    one, other = random_network(2048)(moved)
    assert torch.cosine_similarity(one, other, dim=0) < 0.5


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
    with pytest.raises(OutputFileError, match="holds a result already"):
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
