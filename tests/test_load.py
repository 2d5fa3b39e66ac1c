"""Large files and long processes cost no memory that they need not; `benchmarks/load.py` prints seconds as well."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import trcompress
from trcompress import Plan

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
EMBEDDING_BYTES = 800 << 20

CHILD = """
import sys, threading
from pathlib import Path
import trcompress
from trcompress import Plan
peak, over = [0], threading.Event()
def watch():
    while not over.wait(0.002):
        lines = Path("/proc/self/status").read_text().splitlines()
        peak.append(next(int(line.split()[1]) >> 10 for line in lines if line.startswith("RssAnon")))
watcher = threading.Thread(target=watch)
watcher.start()
trcompress.decompose(sys.argv[1], Plan.of("32x32:8x8", 4), sys.argv[2])
over.set()
watcher.join()
print(max(peak))
"""


def own_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def with_embedding(path):
    """A small network beside an embedding of zeros that takes no room on the disk."""
    parts = {f"rnn.{key}": value for key, value in nn.LSTM(1024, 64).state_dict().items()}
    header, end = {}, 0
    for key, value in parts.items():
        header[key] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [end, end + value.nbytes]}
        end += value.nbytes
    rows = EMBEDDING_BYTES // 4096
    header["emb.weight"] = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [end, end + rows * 4096]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.writelines(value.numpy().tobytes() for value in parts.values())
        stream.truncate(8 + len(text) + end + rows * 4096)


@pytest.mark.slow
def test_an_embedding_that_is_only_copied_is_not_in_memory(tmp_path):
    torch.manual_seed(0)
    with_embedding(tmp_path / "large.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, tmp_path / "large.safetensors", tmp_path / "out.safetensors"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-800:]
    assert (tmp_path / "out.safetensors").stat().st_size > EMBEDDING_BYTES
    assert int(done.stdout) < 400


@pytest.mark.slow
def test_decompositions_in_one_process_leave_nothing_behind(tmp_path):
    torch.manual_seed(0)
    save_file(nn.LSTM(40, 32).state_dict(), tmp_path / "small.safetensors")
    plan, seen = Plan.of("8x5:8x4", 3), []
    for number in range(400):
        trcompress.decompose(tmp_path / "small.safetensors", plan, tmp_path / "out.safetensors", overwrite=True)
        if number in (100, 399):
            seen.append((own_megabytes(), len(os.listdir("/proc/self/fd"))))
    (before, open_before), (after, open_after) = seen
    assert after - before < 8, f"{before:.1f} MB, then {after:.1f} MB"
    assert open_after <= open_before
