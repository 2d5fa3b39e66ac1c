"""Recipes that train: on small arrays always, and every video recipe unmodified on decoded procedural clips."""

import json

import numpy as np
import pytest
from small_task import arrays

from trcompress.data import load_data, make_clips
from trcompress.errors import InputFileError, UsageError
from trcompress.reproduce import read_result, reproduce
from trcompress.reproduce.network import build_classifier, input_parameters
from trcompress.reproduce.random_features import with_random_features
from trcompress.reproduce.recipe import read_recipe, recipe_names

VIDEO = [name for name in recipe_names() if getattr(read_recipe(name).resolve(), "data", None)]
VIDEO = [name for name in VIDEO if read_recipe(name).resolve().data.video]
LIGHT = "ucf11-table1-tr"

SMALL = """
name = "small"
title = "small"
row = "none"
kind = "{kind}"
seeds = [0, 1]
[paper]
parameters = {{ "text" = 60 }}
accuracy = 0.9
[model]
input_size = 12
hidden_size = 16
{model}
[data]
original = "something else"
splits = {splits}
[data.array]
validation_fraction = 0.2
{rest}
"""
RING = 'structure = "tensor-ring"\nshape = "4x3:4x4"\nranks = "2"'
TRAIN = '[train]\nepochs = 12\nbatch_size = 12\nlr = 0.02\ndevice = "cpu"\n'


@pytest.fixture(scope="module")
def array_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / "task.npz"
    np.savez(path, **arrays(rows=120))
    return path


def recipe(folder, data, kind="classify", model=RING, splits='["auto", "random"]', rest=TRAIN, settings=()):
    path = folder / "small.toml"
    path.write_text(SMALL.format(kind=kind, model=model, splits=splits, rest=rest))
    return read_recipe(path).resolve(data=str(data), settings=settings)


def test_a_classifier_is_trained_per_split_and_seed_and_stands_beside_the_paper(tmp_path, array_file):
    asked = recipe(tmp_path, array_file, splits='["auto"]')
    done = reproduce(asked, tmp_path / "out")
    rows = {row.name: row for row in done.result.findings.rows}
    assert rows["input-to-hidden parameters"].measured == asked.model.parameters
    assert rows["input-to-hidden parameters"].paper == {"text": 60}
    accuracy = rows["accuracy, the data's own split"]
    assert accuracy.measured > 0.7
    assert (accuracy.runs, accuracy.paper) == (2, 0.9)
    assert accuracy.note == "paper: something else; here: task.npz"
    history = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert {(one["split"], one["seed"]) for one in history} == {("auto", 0), ("auto", 1)}
    assert [plot.file for plot in done.result.findings.plots] == ["loss", "accuracy", "validation-accuracy"]
    assert (tmp_path / "out" / "loss.csv").is_file()


@pytest.mark.parametrize("network", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize(
    "model",
    [
        'structure = "dense"',
        RING,
        RING + '\ngates = "per-gate"',
        'structure = "tensor-train"\nshape = "4x3:4x4"\nranks = "2"',
        'structure = "block-term"\nshape = "4x3:4x4"\nranks = "2"\nblocks = 2',
    ],
)
def test_the_built_layer_has_the_planned_number_of_parameters(tmp_path, array_file, network, model):
    asked = recipe(tmp_path, array_file, model=f'network = "{network}"\n{model}')
    found = build_classifier(asked.model, load_data(array_file), seed=3)
    assert input_parameters(found.recurrent["rnn"]) == asked.model.parameters
    again = build_classifier(asked.model, load_data(array_file), seed=3)
    assert all((a == b).all() for a, b in zip(found.module.parameters(), again.module.parameters(), strict=True))


def test_the_pipeline_reports_every_stage(tmp_path, array_file):
    rest = TRAIN + '[[compress]]\nshape = "4x3:8x8"\nranks = "3"\n[[compress]]\nshape = "12:64"\nranks = "full"\n'
    rest += '[[compress]]\ntarget_ratio = 3\neffort = "low"\n'
    rest += '[finetune]\nepochs = 6\nbatch_size = 12\nlr = 0.02\ndevice = "cpu"\n'
    asked = recipe(tmp_path, array_file, "pipeline", "", '["auto"]', rest, settings=["seeds=[0]"])
    done = reproduce(asked, tmp_path / "out")
    table = done.result.findings.tables[0]
    runs = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert runs[1]["error"] < 1e-4, "full ranks are exact"
    assert runs[1]["decomposed"] == runs[1]["dense"]
    assert runs[0]["ratio"] > 1 > runs[1]["ratio"]
    assert runs[2]["ratio"] >= 3
    assert runs[2]["ring"].count(" ranks ") == 1
    assert any("planned for 3x, fine-tuned" in row.name for row in done.result.findings.rows)
    assert runs[0]["fine-tuned"] >= runs[0]["decomposed"] - 0.05
    assert (tmp_path / "out" / "compression.png").is_file()


def test_data_of_the_wrong_kind_or_size_is_refused(tmp_path, array_file):
    with pytest.raises(InputFileError, match="data must be one of"):
        reproduce(recipe(tmp_path, tmp_path / "none"), tmp_path / "a")
    with pytest.raises(UsageError, match="this recipe takes a video tree"):
        reproduce(read_recipe(LIGHT).resolve(data=str(array_file)), tmp_path / "b")
    wrong = recipe(tmp_path, array_file, model="", settings=["model.input_size=24"])
    with pytest.raises(UsageError, match=r"takes 24 values per step, task.npz has 12"):
        reproduce(wrong, tmp_path / "c")


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    pytest.importorskip("av", reason="needs the extra [video]")
    folder = tmp_path_factory.mktemp("clips")
    for layout in ("ucf11", "hmdb51"):
        size = {"classes": 2, "groups": 4, "clips_per_group": 1, "frames": 12, "size": (64, 48)}
        make_clips(folder / layout, layout, **size)
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def rehearse(name, trees, folder):
    tree = trees / ("hmdb51" if name.startswith("hmdb51") else "ucf11")
    done = reproduce(read_recipe(name).resolve(quick=True, data=str(tree)), folder, quick=True)
    result = read_result(folder / "result.json")
    assert result == done.result
    return result


def check_rehearsal(name, result):
    assert result.findings.data.startswith("procedural clips")
    original = read_recipe(name).resolve().data.original
    for row in result.findings.rows:
        assert f"here: {original}" not in row.note
    assert original not in result.findings.data
    accuracies = [row for row in result.findings.rows if row.name.startswith("accuracy")]
    assert accuracies
    assert all(0 <= row.measured <= 1 for row in accuracies)


def test_the_flagship_recipe_runs_on_decoded_clips_and_never_says_ucf11(tmp_path, trees):
    result = rehearse(LIGHT, trees, tmp_path / "out")
    check_rehearsal(LIGHT, result)
    assert result.findings.rows[0].measured == 1725
    assert result.quick


@pytest.mark.slow
@pytest.mark.recipe
@pytest.mark.parametrize("name", [name for name in VIDEO if name != LIGHT])
def test_every_video_recipe_runs_unmodified_on_procedural_clips(tmp_path, trees, name):
    result = rehearse(name, trees, tmp_path / "out")
    check_rehearsal(name, result)
    if "cnn" in name:
        assert any("not of Inception-V3" in note for note in result.findings.notes)


def test_a_video_tree_without_the_cnns_weights_says_what_to_give(tmp_path, trees):
    asked = read_recipe("ucf11-table2-cnn-tr").resolve(data=str(trees / "ucf11"))
    with pytest.raises(UsageError, match=r"`set=data\.features\.weights=FILE`"):
        reproduce(asked, tmp_path / "out")


def test_random_features_depend_on_the_clip_and_the_draw_alone(trees, tmp_path):
    options = {"split": "group", "frames": 3, "size": (64, 48), "cache_dir": tmp_path}
    data = with_random_features(load_data(trees / "ucf11", **options), (64, 48), 64)
    assert data.input_size == 64
    both = data.train.batch([0, 1])[0]
    assert both.shape == (2, 3, 64)
    np.testing.assert_allclose(data.train.batch([1])[0][0], both[1], rtol=1e-4, atol=1e-5)
