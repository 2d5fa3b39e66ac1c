"""The same seed and inputs give the same artifact, however many threads a machine has."""

import hashlib
import os
import subprocess
import sys

import pytest

CALL = """
import sys
import torch, trcompress
from torch import nn

threads, out, call = int(sys.argv[1]), sys.argv[2], sys.argv[3]
if threads:
    torch.set_num_threads(threads)


class Net(nn.Module):
    def __init__(self, width, hidden, both):
        super().__init__()
        self.embedding = nn.Embedding(40, width)
        self.rnn = nn.LSTM(width, hidden, 1 + both, batch_first=True, bidirectional=both)
        self.head = nn.Linear(hidden * (1 + both), 5)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0]).log_softmax(-1)


torch.manual_seed(0)
wide = "wide" in call  # more than 2**20 values in a matrix: several threads, as many on any machine
model, draw = Net(1100, 256, False) if wide else Net(96, 128, True), torch.Generator().manual_seed(1)
batches = [torch.randint(0, 40, (16, 12), generator=draw) for _ in range(8)]
before = torch.get_num_threads()
if "whole" in call:
    trcompress.compress_(model, target_ratio_model=9, calibrate=batches).save(out)
else:
    data = {} if call == "plain" else {"calibrate": batches, "refine": 6 if "refined" in call else 0}
    trcompress.compress_(model, target_ratio=8, effort="low", layers="*l0*", **data).save(out)
assert torch.get_num_threads() == before
"""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["plain", "calibrated", "refined", "whole file", "refined, wide", "whole, wide"])
def test_any_number_of_threads_writes_the_same_bytes(tmp_path, call):
    seen = {}
    for name, threads, environment in (
        ("one", 1, {"OMP_NUM_THREADS": "1"}),
        ("two", 2, {"OMP_NUM_THREADS": "2"}),
        ("four", 4, {"OMP_NUM_THREADS": "4"}),
        ("as the system says", 0, {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}),
    ):
        out = tmp_path / f"{name}.safetensors"
        subprocess.run(
            [sys.executable, "-c", CALL, str(threads), str(out), call], check=True, env=os.environ | environment
        )
        seen[name] = hashlib.sha256(out.read_bytes()).hexdigest()
    assert len(set(seen.values())) == 1, seen
