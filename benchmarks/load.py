"""What many layers, rows and clips, large files and long processes cost: seconds, and memory beside the files.

Seconds of a processor are those of the command and of its children; seconds are what the clock says. Memory is the
most at once that no file backs, of the command and its children together.

Run: python benchmarks/load.py [--only rows] [--folder DIR]; figures of the parts not asked for stay in the file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import struct
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from kept import kept_figures
from safetensors.torch import save_file
from torch import Tensor, nn
from watched import RESULTS, console, save

from trcompress import Plan, decompose

Row = dict[str, Any]


def main() -> None:
    """Measure each kind of load, print it, keep it beside what the file has of the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=200)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--only", choices=LOADS, help="one of them")
    parser.add_argument("--folder", type=Path, help="where the files are made and removed again")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench-load.json")
    given = parser.parse_args()
    parts = kept_figures(given.out).get("parts", {})
    for name in [given.only] if given.only else LOADS:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            rows = LOADS[name](Path(folder), getattr(given, name))
        parts[name] = {"arguments": shlex.join(sys.argv[1:]), "threads": torch.get_num_threads(), "rows": rows}
        save(given.out, {"parts": parts}, 0)


class Chain(nn.Module):
    """Stacks that feed one another, and a head."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.block = nn.ModuleDict({f"n{k:03d}": nn.LSTM(64, 64) for k in range(layers)})
        self.fc = nn.Linear(64, 5)


def many_layers(folder: Path, layers: int) -> list[Row]:
    """Inspect, plan for and compress a checkpoint of many recurrent layers."""
    torch.manual_seed(0)
    path, data, out = folder / "many.safetensors", folder / "data.npz", folder / "out.safetensors"
    save_file(Chain(layers).state_dict(), path)
    np.savez(data, x=np.random.default_rng(0).standard_normal((64, 5, 64), dtype=np.float32))
    rows = [measured(f"inspect, {layers} layers", "inspect", path)]
    ratio = ("--target-ratio", "8")
    rows.append(measured(f"plan --target-ratio 8, {layers} layers", "plan", path, *ratio))
    rows.append(measured(f"decompose --target-ratio 8, {layers} layers", "decompose", path, *ratio, "-o", out))
    rows.append(measured(f"report, {layers} layers", "report", out))
    for budget in (("--target-ratio-model", "4"), ("--target-size", f"{path.stat().st_size // 6}")):
        words = ("compress", path, *budget, "--calibrate", data, "--overwrite", "-o", out)
        rows.append(measured(f"compress {budget[0]}, {layers} layers", *words))
    return rows


class Net(nn.Module):
    """A stack and a head."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.rnn, self.fc = nn.LSTM(inputs, 16), nn.Linear(16, classes)


def many_rows(folder: Path, rows: int) -> list[Row]:
    """Calibrate with, evaluate and fine-tune on an array file of many rows, and report what came of it."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((rows, 4, 8), dtype=np.float32), rng.integers(0, 3, rows)
    np.savez(folder / "rows.npz", x=x, y=y, group=np.arange(rows) // 100)
    del x
    dense, ring, data = folder / "net.safetensors", folder / "ring.safetensors", folder / "rows.npz"
    save_file(Net(8, 3).state_dict(), dense)
    size = f"{rows:,} rows ({data.stat().st_size / 1e6:.0f} MB)"
    shape = ("--shape", "4x2:4x4", "--ranks", "2")
    large = ("--data", data, "--batch-size", "1024", "--device", "cpu")
    tuned = folder / "tuned.safetensors"
    calibrate = ("decompose", dense, *shape, "--calibrate", data, "-o", ring)
    return [
        measured(f"decompose --calibrate, {size}", *calibrate),
        measured(f"evaluate, {size}", "evaluate", ring, *large),
        measured(f"finetune, one epoch, {size}", "finetune", ring, *large, "--epochs", "1", "-o", tuned),
        measured(f"report of it, {size}", "report", tuned),
    ]


def many_clips(folder: Path, clips: int) -> list[Row]:
    """Render many short clips, take features of them, and evaluate and fine-tune a network on them."""
    groups = max(2, clips // 100)
    tree = folder / "clips"
    small = ("--classes", "10", "--groups", groups, "--clips-per-group", "10", "--frames", "6", "--size", "32x32")
    count = f"{groups * 100:,} clips"
    rows = [measured(f"data make-clips, {count}", "data", "make-clips", tree, *small)]
    torch.manual_seed(0)
    features = ("--backbone", tiny_cnn(folder / "tiny.onnx"), "--frames", "4", "-o", folder / "features.npz")
    rows.append(measured(f"data extract, {count}", "data", "extract", tree, *features))
    dense, ring = folder / "net.safetensors", folder / "ring.safetensors"
    save_file(Net(16 * 16 * 3, 10).state_dict(), dense)
    words = ("--shape", "16x16x3:4x4", "--ranks", "3", "--init", "tr-svd")
    measured("decompose the network for them", "decompose", dense, *words, "-o", ring)
    options = ("size=16x16", "frames=4", "candidates=4", f"cache_dir={folder / 'cache'}")
    data = ("--data", tree, *(word for one in options for word in ("--data-option", one)), "--device", "cpu")
    rows.append(measured(f"evaluate, {count} decoded", "evaluate", ring, *data))
    rows.append(measured(f"evaluate, {count} from the cache", "evaluate", ring, *data))
    tune = ("finetune", ring, *data, "--epochs", "1", "-o", folder / "tuned.safetensors")
    rows.append(measured(f"finetune, one epoch, {count}", *tune))
    return rows


class TinyCNN(nn.Module):
    """A convolution, averaged over places: 5 features of a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 5, 5, 4)

    def forward(self, frames: Tensor) -> Tensor:
        features: Tensor = self.convolution(frames).relu().mean(dim=(2, 3))
        return features


def tiny_cnn(path: Path) -> Path:
    """Write it as ONNX, for frames of 32 x 32."""
    names: dict[str, Any] = {"input_names": ["x"], "dynamic_axes": {"x": {0: "n"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls this exporter old
        torch.onnx.export(TinyCNN().eval(), (torch.zeros(1, 3, 32, 32),), path, dynamo=False, **names)
    return path


def large_file(folder: Path, gigabytes: float) -> list[Row]:
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
    return [
        measured(f"inspect, {size}", "inspect", path),
        measured(f"decompose, {size}", "decompose", path, "--shape", "32x32:8x8", "--ranks", "4", "-o", out),
        measured(f"report, {size}", "report", out),
    ]


def long_process(folder: Path, repeats: int) -> list[Row]:
    """Decompose one weight again and again in one process."""
    save_file(nn.LSTM(40, 32).state_dict(), folder / "small.safetensors")
    plan, began, first = Plan.of("8x5:8x4", 3), time.perf_counter(), 0.0
    busy = time.process_time()
    for number in range(repeats):
        decompose(folder / "small.safetensors", plan, folder / "small.tr.safetensors", overwrite=True)
        if number == repeats // 10:
            first = own_memory(os.getpid())
    spent, seconds = time.process_time() - busy, time.perf_counter() - began
    last = own_memory(os.getpid())
    what = f"{repeats:,} decompositions in one process, {(last - first) / 1e6:+.1f} MB after the first tenth"
    return [told({"what": what, "processor_s": spent, "seconds": seconds, "peak_bytes": last})]


def measured(what: str, *words: object) -> Row:
    """Run a command; return its seconds and the most memory of its own, mapped files apart.

    Raises:
        SystemExit: the command failed.
    """
    began, peak, before = time.perf_counter(), 0.0, resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-P", "-m", "trcompress", *map(str, words)]
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
        while child.poll() is None:
            peak = max(peak, sum(own_memory(one) for one in family(child.pid)))
            time.sleep(0.02)
        after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{what}: exit code {child.returncode}: {said.read()[-1000:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return told({"what": what, "processor_s": spent, "seconds": seconds, "peak_bytes": peak})


def told(row: Row) -> Row:
    """Print a row."""
    console.print(
        f"{row['what']}: {row['processor_s']:.1f} s of a processor, {row['seconds']:.1f} s, "
        f"{row['peak_bytes'] / 1e6:.0f} MB",
        highlight=False,
    )
    return row


def family(process: int) -> list[int]:
    """The process and all that it started, and they."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return [process]
    return [process, *(one for child in children for one in family(int(child)))]


def own_memory(process: int) -> float:
    """Bytes of memory that no file backs; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024.0 for line in lines if line.startswith("RssAnon")), 0.0)


LOADS = {
    "layers": many_layers,
    "rows": many_rows,
    "clips": many_clips,
    "gigabytes": large_file,
    "repeats": long_process,
}


if __name__ == "__main__":
    main()
