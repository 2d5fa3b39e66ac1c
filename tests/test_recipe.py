"""Recipes: strict, all faults at once, never code; and the ones that ship say what the paper says."""

import tomllib
from pathlib import Path

import pytest
import tomli_w
from command import run
from hypothesis import given
from hypothesis import strategies as st

from trcompress.cli.main import cli
from trcompress.errors import InputFileError, UsageError
from trcompress.reproduce import RUNNERS
from trcompress.reproduce.recipe import (
    faults_of,
    merged,
    parse_setting,
    read_recipe,
    recipe_names,
    write_recipe,
)
from trcompress.reproduce.recipe_schema import RECIPE_KINDS

PAPER_ROWS = {
    "synthetic-fig5",
    "synthetic-fig6",
    "ucf11-table1-lstm",
    "ucf11-table1-tt",
    "ucf11-table1-bt",
    "ucf11-table1-tr",
    "ucf11-table2-cnn-lstm",
    "ucf11-table2-cnn-tr",
    "hmdb51-table3-cnn-lstm",
    "hmdb51-table3-cnn-tr",
    "table4-complexity",
    "tr-rnn",
    "tr-gru",
    "pretrained-hapt",
}
# recipe -> (parameters of the input-to-hidden weight, Eq. 7)
COUNTS = {
    "ucf11-table1-lstm": (58_982_400, 1.0),
    "ucf11-table1-tt": (3_360, 17_554.29),
    "ucf11-table1-bt": (3_392, 17_388.68),
    "ucf11-table1-tr": (1_725, 34_192.70),
    "ucf11-table2-cnn-lstm": (16_777_216, 1.0),
    "ucf11-table2-cnn-tr": (663_552, 25.28),
    "hmdb51-table3-cnn-lstm": (16_777_216, 1.0),
    "hmdb51-table3-cnn-tr": (663_552, 25.28),
    "tr-rnn": (1_425, 10_347.79),
    "tr-gru": (1_625, 27_222.65),
}
SMALL = """
name = "small"
title = "t"
row = "r"
kind = "classify"
[model]
input_size = 12
hidden_size = 8
structure = "tensor-ring"
shape = "4x3:4x2"
ranks = "2"
[data]
splits = ["random"]
[data.array]
[train]
epochs = 2
[quick.train]
epochs = 1
"""


def values(text=SMALL):
    return tomllib.loads(text)


def write(folder, text, name="mine.toml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def changed(folder, **changes):
    return write(folder, tomli_w.dumps(merged(values(), changes)))


def test_every_row_of_the_paper_has_a_recipe():
    assert set(recipe_names()) >= PAPER_ROWS


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid_and_named_as_their_files(name):
    found = read_recipe(name)
    for quick in (False, True):
        recipe = found.resolve(quick=quick)
        assert recipe.name == name
        assert recipe.kind in RUNNERS
    assert found.quick, "every shipped recipe can be rehearsed"


@pytest.mark.parametrize("name", recipe_names())
def test_resolved_recipes_read_back_as_themselves(name):
    recipe = read_recipe(name).resolve()
    again = RECIPE_KINDS[recipe.kind].model_validate(tomllib.loads(write_recipe(recipe)))
    assert again == recipe


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_the_papers_counts_come_from_the_plan(name, count):
    model = read_recipe(name).resolve().model
    assert (model.parameters, round(model.compression_ratio, 2)) == count


def test_both_sets_of_baseline_accuracies_are_recorded():
    printed = {
        name: read_recipe(f"ucf11-table1-{name}").resolve().paper["accuracy"] for name in ("lstm", "tt", "bt")
    }
    assert {name: set(figures.values()) for name, figures in printed.items()} == {
        "lstm": {0.681, 0.697},
        "tt": {0.803, 0.796},
        "bt": {0.856, 0.853},
    }
    assert read_recipe("ucf11-table1-bt").resolve().paper["parameters"] == 3387


def test_recipes_of_table_1_share_one_protocol():
    recipes = [read_recipe(f"ucf11-table1-{name}").resolve() for name in ("lstm", "tt", "bt", "tr")]
    assert len({(one.data.splits, one.data.video, one.train.epochs, one.train.batch_size) for one in recipes}) == 1
    assert recipes[0].data.splits == ("random", "group")


def test_all_faults_are_named_at_once_with_the_nearest_key(tmp_path):
    path = changed(tmp_path, train={"epocs": 3, "lr": -1}, model={"hiden_size": 4}, seeds=[-1], colour="red")
    with pytest.raises(InputFileError) as caught:
        read_recipe(path)
    text = str(caught.value)
    assert "mine.toml has 5 faults" in text
    assert "train.epocs: unknown key (did you mean 'epochs'?)" in text
    assert "model.hiden_size: unknown key (did you mean 'hidden_size'?)" in text
    assert "train.lr: Input should be greater than 0, got -1" in text
    assert "seeds[0]: Input should be greater than or equal to 0, got -1" in text
    assert "colour: unknown key" in text


def test_faults_inside_lists_of_tables_name_the_place():
    base = values('name = "a"\ntitle = "t"\nrow = "r"\nkind = "synthetic"\n[synthetic]\nnoise_variances = [0.05]\n')
    base["synthetic"]["readings"] = [{"name": "x", "about": "", "weight": "ring", "rnak": 3}]
    assert list(faults_of(base)) == ["synthetic.readings[0].rnak: unknown key (did you mean 'rank'?)"]


def test_the_quick_table_is_checked_too(tmp_path):
    path = changed(tmp_path, quick={"train": {"epoch": 1}, "model": {"ranks": "0"}})
    with pytest.raises(InputFileError) as caught:
        read_recipe(path)
    assert "quick.train.epoch: unknown key (did you mean 'epochs'?)" in str(caught.value)
    assert "quick.model.ranks" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = 'classfy'", "kind: must be one of .* got 'classfy' .did you mean 'classify'"),
        ("kind = 3", "kind: must be one of .* got 3"),
        ("", "kind: must be one of"),
        ("kind = [", "is not TOML"),
        ("quick = 3\n", "quick. must be a table"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(InputFileError, match=message):
        read_recipe(write(tmp_path, text))


def test_files_that_are_missing_huge_or_not_text(tmp_path):
    with pytest.raises(InputFileError, match="no such recipe file"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(InputFileError, match="under 1 MiB"):
        read_recipe(write(tmp_path, "# " + "x" * 2**20))
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputFileError, match="not UTF-8"):
        read_recipe(tmp_path / "binary.toml")


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'ucf11-table1-tr'"):
        read_recipe("ucf11-table1-trr")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"path": "os:system"}}, "never package.module:factory"),
        ({"model": {"shape": "4x3:4x9"}}, "output modes must multiply"),
        ({"model": {"shape": "4x"}}, "model.shape: `shape` is INPUT:OUTPUT"),
        ({"model": {"ranks": "2,3,4"}}, "ranks must be one number"),
        ({"model": {"structure": "dense"}}, "neither shape nor ranks"),
        ({"model": {"input_size": 2**30}}, "model.input_size"),
        (
            {"model": {"input_size": 2**24, "hidden_size": 2**16, "shape": "4096x4096:256x256", "ranks": "900"}},
            "at most 2..31 parameters",
        ),
        ({"train": {"epochs": 10**9}}, "train.epochs"),
        ({"data": {"array": {"cache_dir": "/x"}}}, "data.array.cache_dir: unknown key"),
        ({"data": {"video": {"cache_dir": "/x"}}}, "data.video.cache_dir"),
        ({"data": {"splits": ["groop"]}}, "data.splits"),
        ({"name": "../up"}, "name: "),
        ({"paper": {"accuracy": float("inf")}}, "paper.accuracy"),
        ({"paper": {"accuracy": [1]}}, "paper.accuracy"),
    ],
)
def test_values_are_bounded_and_name_no_code(tmp_path, changes, message):
    with pytest.raises(InputFileError, match=message):
        read_recipe(changed(tmp_path, **changes))


def test_settings_change_the_recipe_and_are_checked(tmp_path):
    found = read_recipe(changed(tmp_path))
    recipe = found.resolve(quick=True, settings=["train.lr=0.5", "seeds=[3, 4]", "data.array.group_key=subject"])
    assert (recipe.train.epochs, recipe.train.lr, recipe.seeds) == (1, 0.5, (3, 4))
    assert recipe.data.array.group_key == "subject"
    assert found.resolve(settings=["train.epochs=9"], quick=True).train.epochs == 9, "--set wins over --quick"
    with pytest.raises(UsageError, match=r"train.epochz: unknown key .did you mean 'epochs'"):
        found.resolve(settings=["train.epochz=1"])
    with pytest.raises(UsageError, match="KEY=VALUE"):
        found.resolve(settings=["train.epochs"])


@pytest.mark.parametrize(
    "fields", [{}, {"shape": "16x6:32x16"}, {"shape": "96:512", "ranks": "2", "target_ratio": 9.0}]
)
def test_a_compression_is_written_out_or_planned(fields):
    base = read_recipe("pretrained-hapt").values | {"compress": [fields]}
    assert "shape and ranks, or target_ratio" in " ".join(faults_of(base))


def test_a_recipe_without_a_quick_table_cannot_be_rehearsed(tmp_path):
    found = read_recipe(write(tmp_path, SMALL.partition("[quick")[0]))
    assert found.resolve().train.epochs == 2
    with pytest.raises(UsageError, match=r"no .quick. table"):
        found.resolve(quick=True)


def test_data_paths_start_at_the_recipe_and_the_command_line_wins(tmp_path):
    found = read_recipe(changed(tmp_path, data={"path": "there.npz"}))
    assert found.resolve().data.path == str(tmp_path / "there.npz")
    assert found.resolve(data="here.npz").data.path == "here.npz"
    with pytest.raises(UsageError, match="needs no data"):
        read_recipe("synthetic-fig5").resolve(data="x")


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
places = st.sampled_from([*values(), *(f"{a}.{b}" for a in ("model", "data", "train") for b in values()[a])])


@given(place=places, value=junk, kind=st.sampled_from([*RECIPE_KINDS]))
def test_whatever_stands_in_a_recipe_gives_faults_and_never_a_crash(place, value, kind):
    base = values()
    base.pop("quick")
    table, _, key = place.rpartition(".")
    holder = base[table] if table else base
    holder[key] = value
    base["kind"] = kind
    for fault in faults_of(base):
        assert ": " in fault


@given(st.text(max_size=40))
def test_settings_parse_or_say_why(text):
    if "=" in text and all(key.strip() for key in text.partition("=")[0].split(".")):
        assert isinstance(parse_setting(text), dict)
    else:
        with pytest.raises(UsageError, match="`set` takes KEY=VALUE"):
            parse_setting(text)


def invoke(*words, code=0):
    done = run(*words)
    assert done.code == code, done.stderr
    return done.stderr if code else done.stdout


def test_show_prints_the_file_or_the_resolved_recipe():
    assert invoke("recipe", "show", "ucf11-table1-tr") == read_recipe("ucf11-table1-tr").text
    resolved = tomllib.loads(invoke("recipe", "show", "ucf11-table1-tr", "--quick", "--set", "train.lr=0.25"))
    assert resolved["train"]["lr"] == 0.25
    assert resolved["train"]["weight_decay"] == 0.01, "defaults are spelled out"
    assert resolved["seeds"] == [0]


def test_validate_checks_every_name_and_lists_all_faults(tmp_path):
    assert "ucf11-table1-tr: ok" in invoke("recipe", "validate", "ucf11-table1-tr")
    bad = changed(tmp_path, colour=1)
    text = invoke("recipe", "validate", "ucf11-table1-tr", bad, "no-such", code=3)
    assert "colour: unknown key" in text
    assert "no recipe 'no-such'" in text


def test_copy_writes_a_recipe_that_runs_and_replaces_nothing(tmp_path):
    target = tmp_path / "own.toml"
    invoke("recipe", "copy", "synthetic-fig5", target)
    assert read_recipe(target).resolve() == read_recipe("synthetic-fig5").resolve()
    invoke("recipe", "copy", "tr-gru", target, code=2)
    invoke("recipe", "copy", "tr-gru", target, "--overwrite")
    assert read_recipe(target).resolve().name == "tr-gru"


def test_list_and_dry_run_need_no_torch_and_write_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    listed = invoke("reproduce", "--list")
    assert all(name in listed for name in PAPER_ROWS)
    shown = invoke("reproduce", "ucf11-table1-tr", "--quick", "--dry-run", "--data", "clips")
    assert 'path = "clips"' in shown
    assert list(Path().iterdir()) == []
    assert "needs the NAME" in invoke("reproduce", code=2)


def test_a_recipe_without_data_says_what_to_give_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = invoke("reproduce", "ucf11-table1-tr", code=2)
    assert "needs --data" in text
    assert "make-clips" in text
    assert list(Path().iterdir()) == []


def test_both_verbs_are_on_the_command_line():
    assert {"reproduce", "recipe"} <= set(cli.list_commands(None))
