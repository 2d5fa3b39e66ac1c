"""Reading a hostile file imports nothing: whatever it names, no module is there that was not there before."""

import subprocess
import sys

import pytest
import torch
from command import run
from forged import ARCHIVES, PICKLES, named, pickled_zip
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

# Modules that torch loads when an attribute of this name is asked for, and others that a file may name.
LAZY = (
    "_dynamo",
    "_inductor",
    "_export",
    "onnx",
    "compiler",
    "ao.quantization",
    "_meta_registrations",
    "quantization",
)
FOREIGN = (
    "antigravity",
    "this",
    "turtledemo",
    "idlelib.idle",
    "xmlrpc.server",
    "torch.utils.tensorboard",
    "sklearn",
)

CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from command import run
shelf, hostile = Path(sys.argv[2]), sorted(Path(sys.argv[3]).iterdir())
def look(path):
    run("inspect", path)
    run("inspect", path, "--skip-objects", "--format", "json")
    run("report", path)
    run("expand", path, "-o", path.with_suffix(".expanded"), "--overwrite")
    path.with_suffix(".expanded").unlink(missing_ok=True)
    run("evaluate", shelf / "whole.safetensors", "--data", path)
    run("recipe", "validate", path)
for path in sorted(shelf.iterdir()):
    look(path)
for codec in ("cp437", "unicode_escape", "latin-1"):  # what the readers of zip archives and pickles use
    b"a".decode(codec)
before = set(sys.modules)
for path in hostile:
    look(path)
    added = set(sys.modules) - before
    assert not added, (path.name, sorted(added))
print(len(hostile))
"""


def named_dtype(name: str) -> bytes:
    """A tensor of `_rebuild_tensor_v3`, whose type is looked up by name."""
    storage = b"(\x8c\x07storagectorch\nUntypedStorage\n\x8c\x010\x8c\x03cpuK\x10tQ"
    sizes = b"K\x00K\x04\x85K\x01\x85"
    return b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage + sizes + b"\x89}ctorch\n" + name.encode() + b"\ntR"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    for number, data in enumerate(PICKLES.values()):
        pickled_zip(folder / f"pickle-{number}.pt", data, {"0": bytes(16)})
    for number, write in enumerate(ARCHIVES.values()):
        write(folder / f"archive-{number}.npz")
    for number, name in enumerate(LAZY):
        pickled_zip(folder / f"dtype-{number}.pt", named(named_dtype(name)), {"0": bytes(16)})
    for number, name in enumerate((*(f"torch.{name}" for name in LAZY), *FOREIGN)):
        call = b"c" + name.encode() + b"\nmain\n)R"
        pickled_zip(folder / f"global-{number}.pt", b"}" + b"\x8c\x01a" + call + b"s", {"0": bytes(16)})
        (folder / f"recipe-{number}.toml").write_text(f'kind = "{name}"\nname = "{name}:main"\n')
        header = {"trcompress": f'{{"version": 1, "layers": [{{"kind": "{name}"}}], "weights": []}}'}
        save_file({"weight_ih_l0": torch.zeros(4, 4)}, folder / f"artifact-{number}.safetensors", metadata=header)
    _artifacts_of_odd_types(folder)
    return folder


def _artifacts_of_odd_types(folder):
    """Whole artifacts, but for the type that their header gives the weight."""
    save_file(nn.LSTM(4, 3).state_dict(), folder / "dense.safetensors")
    path = folder / "whole-ring.safetensors"
    assert run("decompose", folder / "dense.safetensors", "--shape", "2x2:3", "--ranks", 1, "-o", path).code == 0
    with safe_open(path, framework="pt") as stream:
        metadata, tensors = stream.metadata(), {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
    for number, name in enumerate(LAZY):
        header = metadata["trcompress"].replace('"dtype":"float32"', f'"dtype":"{name}"')
        assert header != metadata["trcompress"]
        changed = metadata | {"trcompress": header}
        save_file(tensors, folder / f"odd-{number}.safetensors", metadata=changed)


def test_no_module_is_added_by_what_a_file_names(hostile, tmp_path):
    torch.save(nn.LSTM(4, 3).state_dict(), tmp_path / "whole.pt")
    save_file(
        {f"rnn.{key}": value for key, value in nn.LSTM(4, 3).state_dict().items()}, tmp_path / "whole.safetensors"
    )
    run("decompose", tmp_path / "whole.pt", "--shape", "2x2:3", "--ranks", 1)
    run("recipe", "copy", "synthetic-fig5", tmp_path / "whole.toml")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, __file__.rpartition("/")[0], tmp_path, hostile],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert int(done.stdout.split()[-1]) == len(list(hostile.iterdir())) > 60
