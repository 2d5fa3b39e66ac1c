"""What many layers, large files and long processes cost: seconds, and memory that is not the file itself.

Run: python benchmarks/load.py [--layers 200] [--gigabytes 4] [--repeats 2000] [--folder DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--folder", type=Path, help="where the files are made and removed again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        many_layers(Path(folder), given.layers)
        large_file(Path(folder), given.gigabytes)
        long_process(Path(folder), given.repeats)


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
    began, peak = time.perf_counter(), 0.0
    command = [sys.executable, "-P", "-m", "trcompress", *map(str, words)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while child.poll() is None:
        peak = max(peak, own_memory(child.pid))
        time.sleep(0.02)
    console.print(f"{title}: {time.perf_counter() - began:.1f} s, {peak:.0f} MB, exit code {child.returncode}")


def own_memory(process: int) -> float:
    """Megabytes of memory that no file backs; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon")), 0.0)


if __name__ == "__main__":
    main()
