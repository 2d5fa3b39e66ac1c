"""What is killed: commands that write, with their inputs, their outputs, and how to tell results apart."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import small_task
import torch
from command import run
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

TINY = ("--classes", 2, "--groups", 2, "--clips-per-group", 1, "--frames", 6, "--size", "32x32")


@dataclass(frozen=True)
class Scenario:
    """One command.

    Args:
        words: the command, run in a folder that holds the inputs in `in`.
        again: the command that is run after the kill; the same, or one that resumes.
        output: file or folder that it makes, relative.
        fingerprint: equal for equal results, whatever the clock said.
        leaves: patterns of files that a kill may leave beside the output, to be gone after `again`.
        keeps: patterns of files that stay beside the output: logs and caches.
    """

    words: tuple[object, ...]
    again: tuple[object, ...]
    output: str
    fingerprint: Callable[[Path], str]
    leaves: tuple[str, ...] = (".*.trcompress.part", ".*.trcompress.lock")
    keeps: tuple[str, ...] = ()


def tensors_of(path: Path) -> str:
    """Hash the names, types and bytes of all tensors of a safetensors file."""
    digest = hashlib.sha256()
    with safe_open(path, framework="pt") as stream:
        for key in sorted(stream.keys()):
            tensor = stream.get_tensor(key)
            digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def bytes_of(path: Path) -> str:
    """Hash a file, or all files of a folder with their names."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    digest = hashlib.sha256()
    for one in files:
        digest.update(f"{one.relative_to(path.parent)} ".encode() + one.read_bytes())
    return digest.hexdigest()


def findings_of(folder: Path) -> str:
    """The findings of a reproduced row; seconds and the machine do not matter."""
    return json.dumps(json.loads((folder / "result.json").read_text())["findings"], sort_keys=True)


def scenarios(inputs: Path) -> dict[str, Scenario]:
    """Write the inputs, and return every scenario that this installation can run."""
    _write_inputs(inputs)
    found = _of_models()
    if (inputs / "tree").exists():
        found |= _of_videos(inputs)
    return found


def _of_models() -> dict[str, Scenario]:
    shape = ("--shape", "8x8:8x4", "--ranks", "4", "--format", "json")
    decompose = ("decompose", "in/dense.safetensors", *shape, "-o", "out.safetensors")
    replace = (*decompose, "--overwrite")
    tune = ("finetune", "in/ring.safetensors", "--data", "in/data.npz", "--teacher", "in/net.safetensors",
            "--epochs", 6, "--batch-size", 16, "--device", "cpu", "-o", "out.safetensors")  # fmt: skip
    small = ("compress", "in/net.safetensors", "--target-size", "3KB", "--calibrate", "in/data.npz", "-o",
             "out.safetensors", "--overwrite")  # fmt: skip
    few = ("--set", "complexity.ranks=[2,3]", "--set", "complexity.batch=1")
    rows = ("reproduce", "table4-complexity", "--quick", *few, "--out", "out", "--overwrite")
    runs = ("out.run", "out.metrics.json")
    return {
        "decompose": Scenario(decompose, replace, "out.safetensors", tensors_of),
        "decompose --overwrite": Scenario(replace, replace, "out.safetensors", tensors_of),
        "compress": Scenario(small, small, "out.safetensors", tensors_of),
        "finetune": Scenario(tune, (*tune, "--resume"), "out.safetensors", tensors_of, keeps=runs),
        "reproduce": Scenario(rows, rows, "out", findings_of),
    }


def _of_videos(inputs: Path) -> dict[str, Scenario]:
    clips = ("data", "make-clips", "out", "--layout", "ucf11", *TINY, "--overwrite")
    folder = (".*.trcompress.part", ".*.trcompress.lock", ".*.trcompress.old")
    found = {"data make-clips": Scenario(clips, clips, "out", bytes_of, folder)}
    if (inputs / "tiny.onnx").exists():
        extract = ("data", "extract", "in/tree", "--backbone", "in/tiny.onnx", "--frames", 3, "--workers", 0,
                   "--cache-dir", "cache", "-o", "out.npz", "--overwrite")  # fmt: skip
        found["data extract"] = Scenario(extract, extract, "out.npz", bytes_of, keeps=("cache",))
    return found


class _Net(nn.Module):
    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(inputs, hidden), nn.Linear(hidden, small_task.CLASSES)


def _write_inputs(inputs: Path) -> None:
    inputs.mkdir()
    torch.manual_seed(0)
    save_file(_Net(64, 32).state_dict(), inputs / "dense.safetensors")
    save_file(_Net(small_task.INPUTS, 16).state_dict(), inputs / "net.safetensors")
    np.savez(inputs / "data.npz", **small_task.arrays())
    ring = ("--shape", "4x3:4x4", "--ranks", 2, "-o", inputs / "ring.safetensors")
    assert run("decompose", inputs / "net.safetensors", *ring).code == 0
    if run("data", "make-clips", inputs / "tree", *TINY).code:
        shutil.rmtree(inputs / "tree", ignore_errors=True)  # no encoder is installed
        return
    try:
        from test_data_features import TinyCNN, export

        export(TinyCNN(), inputs / "tiny.onnx", (1, 3, 24, 32))
    except ImportError:
        (inputs / "tiny.onnx").unlink(missing_ok=True)
