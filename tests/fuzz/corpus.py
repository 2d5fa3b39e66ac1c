"""Small whole files of every kind that trcompress reads, to be damaged."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import torch
from command import run
from safetensors.torch import save_file
from torch import nn

from trcompress.artifact.file import read_artifact
from trcompress.artifact.storage import Stored
from trcompress.artifact.write import write_artifact

SHAPE = ("--shape", "2x2:3", "--ranks", "1")


class Net(nn.Module):
    """A stack, a head, and a table of integers."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, **options: object) -> None:
        super().__init__()
        self.rnn = kind(4, 3, **options)  # type: ignore[arg-type]
        self.fc = nn.Linear(3, 2)
        self.register_buffer("seen", torch.arange(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.rnn(x)[0])


def make(folder: Path) -> None:
    """Write whole files of every target, each into the folder of its name."""
    torch.manual_seed(0)
    for name in ("checkpoint", "artifact", "index", "recipe", "array", "result", "state", "list", "video"):
        (folder / name).mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit says that it is deprecated
        _checkpoints(folder / "checkpoint")
    for maker in (_artifacts, _indexes, _recipes, _arrays, _states):
        maker(folder)
    _videos(folder)


def _checkpoints(folder: Path) -> None:
    state = {**Net().state_dict(), "half": torch.ones(2, dtype=torch.bfloat16)}
    torch.save({"model": state, "optimizer": {"lr": 0.1, "step": [1, 2]}, "epoch": 3}, folder / "zip.pt")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(Net(nn.GRU, bidirectional=True), folder / "module.pt")
    torch.jit.script(Net()).save(str(folder / "script.pt"))
    save_file({key: value.clone() for key, value in state.items()}, folder / "plain.safetensors")
    arrays = {key: value.numpy() for key, value in Net(nn.RNN).state_dict().items()}
    (folder / "arrays.pkl").write_bytes(pickle.dumps({"weights": arrays, "epoch": 3}))
    np.savez(folder / "arrays.npz", **{key: value.numpy() for key, value in Net(nn.GRU).state_dict().items()})


def _artifacts(folder: Path) -> None:
    dense, out = folder / "checkpoint" / "plain.safetensors", folder / "artifact"
    for name, more in {
        "ring": (),
        "per-gate": ("--gates", "per-gate", "--dtype", "float16"),
        "float64": ("--dtype", "float64", "--init", "tr-svd"),
    }.items():
        done = run("decompose", dense, *SHAPE, *more, "-o", out / f"{name}.safetensors")
        assert done.code == 0, done.stderr
    for kind in ("int8", "int4"):
        ring = read_artifact(out / "ring.safetensors")
        ring.stored = {key: Stored.of(tensor, kind) for key, tensor in ring.tensors.items() if tensor.dim() == 2}
        ring.packed = kind == "int4"
        write_artifact(out / f"{kind}.safetensors", ring)


def _indexes(folder: Path) -> None:
    state = Net().state_dict()
    keys = list(state)
    parts = {"a.safetensors": keys[:2], "b.safetensors": keys[2:]}
    shards = folder / "shards"
    shards.mkdir()
    for name, own in parts.items():
        save_file({key: state[key].clone() for key in own}, shards / name)
    weight_map = {key: name for name, own in parts.items() for key in own}
    index = {"metadata": {"total_size": 400}, "weight_map": weight_map}
    (folder / "index" / "model.safetensors.index.json").write_text(json.dumps(index))


def _recipes(folder: Path) -> None:
    for name in ("ucf11-table1-tr", "synthetic-fig5"):
        done = run("recipe", "copy", name, folder / "recipe" / f"{name}.toml")
        assert done.code == 0, done.stderr


def _arrays(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3, 4)).astype(np.float32)
    arrays = {"x": x, "y": np.arange(8) % 2, "group": np.arange(8) // 2, "length": np.full(8, 3)}
    np.savez(folder / "array" / "whole.npz", **arrays, classes=np.array(["[red]no", "yes"]))
    halves = {f"{name}_{part}": value[cut] for name, value in arrays.items() if name != "group"
              for part, cut in (("train", slice(0, 4)), ("test", slice(4, 8)))}  # fmt: skip
    np.savez(folder / "array" / "parts.npz", **halves)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    save_file(tensors, folder / "array" / "tensors.safetensors", metadata={"classes": '["no", "yes"]'})


def _states(folder: Path) -> None:
    """The state of an interrupted run, and a result."""
    work = folder / "work"
    work.mkdir()
    ring, data = folder / "artifact" / "ring.safetensors", folder / "array" / "parts.npz"
    from trcompress.training.display import NoDisplay
    from trcompress.training.finetune import finetune
    from trcompress.training.settings import FinetuneSettings

    class Stop(NoDisplay):
        def epoch(self, record: dict[str, object]) -> None:
            if record["epoch"] == 1:
                raise KeyboardInterrupt

    try:
        finetune(ring, data, work / "out.safetensors", display=Stop(), settings=FinetuneSettings(**TUNE))
    except KeyboardInterrupt:
        shutil.copy(work / "out.run" / "state.safetensors", folder / "state" / "state.safetensors")
    done = run("reproduce", "table4-complexity", "--quick", "--out", work / "result")
    assert done.code == 0, done.stderr
    shutil.copy(work / "result" / "result.json", folder / "result" / "result.json")


TUNE = {"epochs": 2, "batch_size": 4, "device": "cpu"}


def _videos(folder: Path) -> None:
    """Clips of both layouts, one of each kept, and an official list."""
    made = folder / "tree"
    common = ("--classes", 2, "--groups", 2, "--clips-per-group", 1, "--frames", 6, "--size", "32x32")
    for layout in ("ucf11", "hmdb51"):
        if run("data", "make-clips", made / layout, "--layout", layout, *common).code:
            return  # no decoder is installed
    for suffix in (".mpg", ".avi", ".txt"):
        found = sorted(made.rglob(f"*{suffix}"))[0]
        shutil.copy(found, folder / ("list" if suffix == ".txt" else "video") / found.name)
