"""A weight larger than memory: `trcompress decompose` on a 4.1 GB matrix with a bounded peak of resident memory.

    python benchmarks/larger_than_memory.py [--rows 1000000] [--ranks 4] [--noise 0.1] [--folder DIR]

Writes the checkpoint of an LSTM(rows, 256), a planted ring plus noise, block by block; runs the real command on it
in a process of its own; reads its peak memory, mapped pages included, from the kernel; removes the file. The best
possible relative error is known: sqrt(noise^2 / (1 + noise^2)), 0.0995 for noise 0.1, a little less as the ring's
own parameters follow the noise.
"""

from __future__ import annotations

import argparse
import json
import shutil
import struct
import sys
import tempfile
import time
from math import prod
from pathlib import Path
from typing import IO, Any

import torch
from rich.table import Table
from watched import RESULTS, console, save, watch

from trcompress.formats import TensorRing
from trcompress.search.modes import factorizations

HIDDEN, GATES = 256, 4
OUT_MODES = (4, 4, 4, 4)
LIMIT_BYTES = 1_500_000_000
BLOCK = 16
"""Outputs written at once."""


def in_modes(rows: int) -> tuple[int, ...]:
    """As many modes as the rows have, of 6 and fewer, the most balanced."""
    for count in range(6, 0, -1):
        choices = sorted(factorizations(rows, count), key=lambda modes: (sum(modes), modes))
        if choices:
            return choices[0]
    return (rows,)


def write_checkpoint(path: Path, ring: TensorRing, noise: float, seed: int) -> None:
    """Write the weights of an LSTM whose input weight is a planted ring plus noise; never whole in memory."""
    generator = torch.Generator().manual_seed(seed)
    cores = [torch.randn(shape, generator=generator) for shape in ring.core_shapes]
    left, right = ring.input_factor(cores), ring.output_factor(cores)  # (I, K), (K, O)
    scale = float(((left.t() @ left) * (right @ right.t())).sum()) ** 0.5 / prod((len(left), right.shape[1])) ** 0.5
    rows, outputs = len(left), right.shape[1]
    small = {"bias_hh_l0": (outputs,), "bias_ih_l0": (outputs,), "weight_hh_l0": (outputs, HIDDEN)}
    with path.open("wb") as stream:
        _write_header(stream, {"weight_ih_l0": (outputs, rows), **small})
        for first in range(0, outputs, BLOCK):
            block = right[:, first : first + BLOCK].t() @ left.t()
            block.add_(torch.randn(block.shape, generator=generator), alpha=noise * scale).mul_(0.05 / scale)
            block.numpy().tofile(stream)
        for shape in small.values():
            torch.zeros(shape).numpy().tofile(stream)


def _write_header(stream: IO[bytes], shapes: dict[str, tuple[int, ...]]) -> None:
    """The safetensors header of float32 tensors that follow in this order."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    stream.write(struct.pack("<Q", len(text)) + text)


def measure(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write, decompose in a child, read what it says of itself."""
    modes = in_modes(given.rows)
    ring = TensorRing(modes, (GATES * OUT_MODES[0], *OUT_MODES[1:]), (given.ranks,) * (len(modes) + 5))
    checkpoint, artifact = folder / "large.safetensors", folder / "large.tr.safetensors"
    begin = time.perf_counter()
    write_checkpoint(checkpoint, ring, given.noise, given.seed)
    file_bytes = checkpoint.stat().st_size
    console.print(f"{file_bytes:,} bytes written in {time.perf_counter() - begin:.0f} s", highlight=False)
    shape = "x".join(map(str, modes)) + ":" + "x".join(map(str, OUT_MODES))
    options = ["--shape", shape, "--ranks", str(given.ranks), "--init", given.init, "--seed", str(given.seed)]
    command = ["decompose", checkpoint, *options, "-o", artifact, "--format", "json"]
    seen = watch([sys.executable, "-m", "trcompress", *command])
    (weight,) = json.loads(seen.output)["weights"]
    return {
        "rows": given.rows,
        "weight_bytes": 4 * GATES * HIDDEN * given.rows,
        "shape": shape,
        "ranks": given.ranks,
        "init": given.init,
        "noise": given.noise,
        "planted_error": given.noise / (1 + given.noise**2) ** 0.5,
        "error": weight["error"],
        "bound": weight["bound"],
        "seconds": seen.seconds,
        "peak_bytes": seen.peak_bytes,
        "mapped_bytes": seen.mapped_bytes,
        "artifact_bytes": artifact.stat().st_size,
    }


def show(found: dict[str, Any]) -> None:
    """Print what was measured."""
    title = f"{found['rows']:,} x {GATES * HIDDEN:,} float32, {found['shape']} ranks {found['ranks']}"
    table = Table(title=title, title_justify="left")
    for column in ("W", "artifact", "time", "peak memory", "of it mapped", "error", "planted", "bound"):
        table.add_column(column, justify="right")
    table.add_row(
        f"{found['weight_bytes'] / 1e6:,.0f} MB",
        f"{found['artifact_bytes'] / 1e6:,.1f} MB",
        f"{found['seconds']:.0f} s",
        f"{found['peak_bytes'] / 1e6:,.0f} MB",
        f"{found['mapped_bytes'] / 1e6:,.0f} MB",
        *(f"{found[key]:.4f}" for key in ("error", "planted_error", "bound")),
    )
    console.print(table)


def main() -> None:
    """Measure, print, write JSON; fail where the memory was not bounded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="inputs of the LSTM")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--noise", type=float, default=0.1, help="relative to the planted ring")
    parser.add_argument("--init", default="tr-als", choices=("tr-als", "tr-svd"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where there is room")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench-larger-than-memory.json")
    given = parser.parse_args()
    needed, free = 5 * GATES * HIDDEN * given.rows, shutil.disk_usage(given.folder).free
    if free < needed:
        raise SystemExit(
            f"{given.folder} must have {needed:,} bytes free: it has {free:,}; choose another --folder"
        )
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        found = measure(given, Path(folder))
    show(found)
    save(given.out, found, given.seed)
    if found["peak_bytes"] > LIMIT_BYTES:
        raise SystemExit(f"peak memory must stay below {LIMIT_BYTES:,} bytes: it was {found['peak_bytes']:,}")


if __name__ == "__main__":
    main()
