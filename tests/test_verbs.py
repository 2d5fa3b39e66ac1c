"""The verbs as Python functions: one name, explicit keywords, types that a checker sees."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from mypy import api as mypy
from test_tree import MODULES

import trcompress
from trcompress.training.settings import FinetuneSettings

VERBS = ("plan", "decompose", "compress", "finetune", "evaluate", "bench", "report", "expand")
ROOT = Path(trcompress.__file__).parent


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_a_function_with_explicit_keywords_all_explained(verb):
    function = getattr(trcompress, verb)
    kinds = {one.kind for one in inspect.signature(function).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert all(f" {name}: " in function.__doc__ for name in inspect.signature(function).parameters)


def test_every_training_setting_is_a_keyword_of_finetune():
    assert set(FinetuneSettings.model_fields) <= set(inspect.signature(trcompress.finetune).parameters)


def test_no_module_of_the_package_has_the_name_of_a_public_function():
    top = {path.stem for path in ROOT.glob("*.py")} | {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert not top & set(trcompress.__all__)


def test_importing_every_module_turns_no_verb_into_a_module():
    for name in MODULES:
        if name != "trcompress.__main__":
            import_module(name)
    assert all(inspect.isfunction(getattr(trcompress, verb)) for verb in VERBS)


def test_importing_the_package_does_not_import_torch():
    code = "import sys, trcompress; dir(trcompress); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_stub_names_what_the_package_names():
    import ast

    names = set()
    for node in ast.parse((ROOT / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname for alias in node.names if alias.asname}
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets}
    assert names == set(trcompress.__all__)


GOOD = """
import torch
import trcompress

found: trcompress.NetworkSearch = trcompress.plan("model.pt", target_ratio=8)
artifact = trcompress.decompose("model.pt", found.plan, "model.tr.safetensors", overwrite=True)
weights: dict[str, torch.Tensor] = artifact.tensors
tuned = trcompress.finetune("model.tr.safetensors", "data.npz", teacher="model.pt", epochs=3)
accuracy: float = trcompress.evaluate(tuned.out, "data.npz").right
ratio: float = trcompress.report(tuned.out).compression_ratio
faster: float = trcompress.bench(tuned.out, "model.pt").timings[0].speedup
model = torch.nn.Sequential(torch.nn.LSTM(12, 8))
trcompress.compress_(model, trcompress.Plan.of("4x3:4x2", ranks=2))
layer = trcompress.TRLSTM(12, 8, shape=((4, 3), (4, 2)), ranks=[2, 3], batch_first=True)
"""
BAD = {
    "trcompress.nonsense": 'Module has no attribute "nonsense"',
    "trcompress.plan('model.pt', target_ration=8)": 'Unexpected keyword argument "target_ration"',
    "trcompress.finetune('a', 'b', epochs='three')": 'incompatible type "str"',
    "trcompress.evaluate('a', 'b').right.upper()": '"float" has no attribute "upper"',
}


def test_a_users_script_is_checked_by_mypy(tmp_path, monkeypatch):
    (tmp_path / "good.py").write_text(GOOD)
    for number, line in enumerate(BAD):
        (tmp_path / f"bad{number}.py").write_text(f"import trcompress\n\n{line}\n")
    monkeypatch.setenv("MYPYPATH", str(Path(__file__).parent.parent))  # an installed copy may not be named
    monkeypatch.chdir(tmp_path)
    text, errors, _ = mypy.run([".", "--follow-imports=silent", "--ignore-missing-imports", "--no-incremental"])
    assert not errors
    assert "good.py" not in text, text
    for number, message in enumerate(BAD.values()):
        assert any(line.startswith(f"bad{number}.py") and message in line for line in text.splitlines()), text


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (trcompress.TRLSTM, {"rank": 2}, r"TRLSTM got an unknown option 'rank' \(did you mean 'ranks'\?\)"),
        (trcompress.TRGRUCell, {"ranks": 2, "gate": "fused"}, r"TRGRUCell got an unknown option 'gate'.*'gates'"),
        (
            trcompress.TRRNN,
            {"ranks": 2, "batchfirst": True},
            r"TRRNN got an unknown option 'batchfirst'.*'batch_first'",
        ),
        (
            trcompress.TRGRU,
            {"rnks": 2, "gats": 1},
            r"TRGRU got unknown options 'rnks' .*'ranks'.*, 'gats' .*'gates'",
        ),
    ],
)
def test_an_unknown_option_of_a_layer_is_named_with_the_nearest(layer, options, message):
    with pytest.raises(trcompress.TrcompressError, match=f"^{message}"):
        layer(12, 8, shape="4x3:4x2", **options)


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN"])
def test_a_layer_shows_its_sizes_as_torch_nn_does(name):

    options = {"num_layers": 2, "batch_first": True, "bidirectional": True, "dropout": 0.5}
    dense = getattr(torch.nn, name)(12, 8, **options)
    ring = getattr(trcompress, f"TR{name}")(12, 8, shape="4x3:4x2", ranks=2, **options)
    assert repr(ring).splitlines()[1].strip() == repr(dense).partition("(")[2].rpartition(")")[0]
    cell = getattr(trcompress, f"TR{name}Cell")(12, 8, bias=False, shape="4x3:4x2", ranks=2)
    dense = getattr(torch.nn, f"{name}Cell")(12, 8, bias=False)
    assert repr(cell).splitlines()[1].strip() == repr(dense).partition("(")[2].rpartition(")")[0]
    assert len(repr(ring).splitlines()) == 5


def test_compress_takes_inputs_without_labels_as_the_verb_does(tmp_path):
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(12, 32), torch.nn.Linear(32, 5)
    state = {f"rnn.{key}": value for key, value in lstm.state_dict().items()}
    torch.save(state | {"fc.weight": head.weight, "fc.bias": head.bias}, tmp_path / "m.pt")
    np.savez(tmp_path / "x.npz", x=torch.randn(40, 6, 12).numpy())
    made = trcompress.compress(
        tmp_path / "m.pt", calibrate=tmp_path / "x.npz", target_size=9000, passes=["rounding"]
    )
    assert made.header.lineage[-1].verb == "compress"
    assert {one.kind for one in made.header.passes} == {"rounding"}


def test_compress_meets_a_budget_for_the_whole_file(tmp_path):
    import small_task

    files = small_task.write_files(tmp_path)
    out = tmp_path / "small.safetensors"
    made = trcompress.compress(
        files["dense"], out, calibrate=files["data"], target_ratio_model=1.5, passes=["rounding"]
    )
    assert made.path == out
    assert out.stat().st_size <= trcompress.read_checkpoint(files["dense"]).tensor_bytes / 1.5
    assert trcompress.evaluate(out, files["data"]).accuracy > 0.5
    with pytest.raises(trcompress.TrcompressError, match=r"the budget cannot be met: [0-9,]+ bytes is the least"):
        trcompress.compress(files["dense"], calibrate=files["data"], target_size=100, passes=["rounding"])
    with pytest.raises(trcompress.TrcompressError, match="give one budget"):
        trcompress.compress(files["dense"], calibrate=files["data"])
