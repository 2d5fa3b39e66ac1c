"""What many layers, rows and clips, large files and long processes cost: seconds, and memory beside the files.

Seconds of a processor are those of the command and of its children; seconds are what the clock says. Memory is the
most at once that no file backs, of the command and its children together.

Run: python benchmarks/load.py [--layers 200] [--rows 1000000] [--clips 10000] [--gigabytes 4] [--repeats 2000]
     [--only rows,clips] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from trcompress import Plan, decompose

console = Console(highlight=False)


def main() -> None:
    """Measure each kind of load and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", default="layers,rows,clips,gigabytes,repeats", help="which of them")
    parser.add_argument("--folder", type=Path, help="where the files are made and removed again")
    given = parser.parse_args()
    loads = {
        "layers": many_layers,
        "rows": many_rows,
        "clips": many_clips,
        "gigabytes": large_file,
        "repeats": long_process,
    }
    for name in given.only.split(","):
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            loads[name](Path(folder), getattr(given, name))


def many_layers(folder: Path, layers: int) -> None:
    """Inspect and compress a checkpoint of many recurrent layers."""
    torch.manual_seed(0)
    stacks = {f"block.{k}.rnn": nn.LSTM(64, 64) for k in range(layers)}
    tensors = {
        f"{name}.{key}": value for name, stack in stacks.items() for key, value in stack.state_dict().items()
    }
    path, out = folder / "many.safetensors", folder / "many.tr.safetensors"
    save_file(tensors, path)
    measured(f"inspect, {layers} layers", "inspect", path)
    measured(f"decompose --target-ratio 8, {layers} layers", "decompose", path, "--target-ratio", "8", "-o", out)
    measured(f"report, {layers} layers", "report", out)


class Net(nn.Module):
    """A stack and a head."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(inputs, 16), nn.Linear(16, classes)


def many_rows(folder: Path, rows: int) -> None:
    """Evaluate, calibrate and fine-tune on an array file of many rows."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 4, 8), dtype=np.float32), rng.integers(0, 3, rows)
    np.savez(folder / "rows.npz", x=x, y=y, group=np.arange(rows) // 100)
    del x
    dense, ring, data = folder / "net.safetensors", folder / "ring.safetensors", folder / "rows.npz"
    save_file(Net(8, 3).state_dict(), dense)
    size = f"{rows:,} rows ({data.stat().st_size / 1e6:.0f} MB)"
    shape = ("--shape", "4x2:4x4", "--ranks", "2")
    measured(f"decompose --calibrate, {size}", "decompose", dense, *shape, "--calibrate", data, "-o", ring)
    large = ("--data", data, "--batch-size", "1024", "--device", "cpu")
    measured(f"evaluate, {size}", "evaluate", ring, *large)
    tuned = folder / "tuned.safetensors"
    measured(f"finetune, one epoch, {size}", "finetune", ring, *large, "--epochs", "1", "-o", tuned)


def many_clips(folder: Path, clips: int) -> None:
    """Render many short clips, and evaluate and fine-tune a network on them."""
    groups = max(2, clips // 100)
    tree = folder / "clips"
    small = ("--classes", "10", "--groups", groups, "--clips-per-group", "10", "--frames", "6", "--size", "32x32")
    measured(f"data make-clips, {groups * 100:,} clips", "data", "make-clips", tree, *small)
    torch.manual_seed(0)
    dense, ring = folder / "net.safetensors", folder / "ring.safetensors"
    save_file(Net(16 * 16 * 3, 10).state_dict(), dense)
    words = ("--shape", "16x16x3:4x4", "--ranks", "3", "--init", "tr-svd")
    measured("decompose", "decompose", dense, *words, "-o", ring)
    options = ("size=16x16", "frames=4", "candidates=4", f"cache_dir={folder / 'cache'}")
    data = ("--data", tree, *(word for one in options for word in ("--data-option", one)), "--device", "cpu")
    measured(f"evaluate, {groups * 100:,} clips decoded", "evaluate", ring, *data)
    measured(f"evaluate, {groups * 100:,} clips from the cache", "evaluate", ring, *data)
    tuned = folder / "tuned.safetensors"
    measured("finetune, one epoch", "finetune", ring, *data, "--epochs", "1", "-o", tuned)


def large_file(folder: Path, gigabytes: float) -> None:
    """Compress a network whose embedding, which is only copied, fills the file."""
    rows, layer = int(gigabytes * 1e9 / 4096), nn.LSTM(1024, 64)
    parts = {f"rnn.{key}": value for key, value in layer.state_dict().items()}
    header, end = {}, 0
    for key, value in parts.items():
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    header["emb.weight"] = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [end, end + rows * 4096]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path, out = folder / "large.safetensors", folder / "large.tr.safetensors"
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.writelines(value.numpy().tobytes() for value in parts.values())
        stream.truncate(8 + len(text) + end + rows * 4096)  # zeros that take no room on the disk
    size = f"{path.stat().st_size / 1e9:.1f} GB"
    measured(f"inspect, {size}", "inspect", path)
    measured(f"decompose, {size}", "decompose", path, "--shape", "32x32:8x8", "--ranks", "4", "-o", out)
    measured(f"report, {size}", "report", out)
    path.unlink()
    out.unlink()


def long_process(folder: Path, repeats: int) -> None:
    """Decompose one weight again and again in one process."""
    save_file(nn.LSTM(40, 32).state_dict(), folder / "small.safetensors")
    plan, began, first = Plan.of("8x5:8x4", 3), time.perf_counter(), 0
    for number in range(repeats):
        decompose(folder / "small.safetensors", plan, folder / "small.tr.safetensors", overwrite=True)
        if number == repeats // 10:
            first = own_memory(os.getpid())
    grown = own_memory(os.getpid()) - first
    console.print(
        f"{repeats:,} decompositions in one process: {time.perf_counter() - began:.1f} s, {grown:+.1f} MB"
    )


def measured(title: str, *words: object) -> None:
    """Run a command and print its seconds and the most memory of its own, mapped files apart."""
    began, peak, before = time.perf_counter(), 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-P", "-m", "trcompress", *map(str, words)]
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while child.poll() is None:
            peak = max(peak, sum(own_memory(one) for one in family(child.pid)))
            time.sleep(0.02)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        console.print(
            f"{title}: {spent:.1f} s of a processor, {time.perf_counter() - began:.1f} s, {peak:.0f} MB, "
            f"exit code {child.returncode}"
        )
        if child.returncode:
            said.seek(0)
            console.print(said.read()[-1000:], markup=False)


def family(process: int) -> list[int]:
    """The process and all that it started, and they."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return [process]
    return [process, *(one for child in children for one in family(int(child)))]


def own_memory(process: int) -> float:
    """Megabytes of memory that no file backs; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")), 0.0)


if __name__ == "__main__":
    main()
