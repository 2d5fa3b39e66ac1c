"""A task that a small network learns in seconds, as files: data, a dense checkpoint, an artifact."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from trcompress.artifact.write import write_artifact
from trcompress.data import from_arrays
from trcompress.model.plan import Plan
from trcompress.passes.assemble import decompose_checkpoint

CLASSES, STEPS, INPUTS, HIDDEN = 3, 6, 12, 16
FAST = {"epochs": 6, "batch_size": 16, "lr": 1e-2, "device": "cpu"}
"""Settings of fine-tuning that learn it."""


def arrays(seed=0, *, rows=90, variable=False, noise=1.0):
    """Noisy copies of one random sequence per class; the last third are test rows, in groups of five."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(99).normal(size=(CLASSES, STEPS, INPUTS))
    y = np.arange(rows) % CLASSES
    x = (patterns[y] + noise * rng.normal(size=(rows, STEPS, INPUTS))).astype(np.float32)
    cut = 2 * rows // 3
    found = {"x_train": x[:cut], "y_train": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}
    found |= {"group_train": np.arange(cut) // 5, "group_test": 1000 + np.arange(rows - cut) // 5}
    if variable:
        lengths = rng.integers(2, STEPS + 1, size=rows)
        found |= {"length_train": lengths[:cut], "length_test": lengths[cut:]}
    return found


def data_set(seed=0, *, validation_fraction=0.25, **options):
    return from_arrays(arrays(seed, **options), validation_fraction=validation_fraction)


class Network(nn.Module):
    """What a user has: a recurrent stack and a linear head under their own names."""

    def __init__(self, kind="LSTM", layers=1, bidirectional=False, **options):
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.rnn = getattr(nn, kind)(
            INPUTS, HIDDEN, layers, batch_first=True, bidirectional=bidirectional, **options
        )
        size = (options.get("proj_size") or HIDDEN) * (2 if bidirectional else 1)
        self.norm = nn.LayerNorm(4)  # in the file, but not part of the classifier
        self.classify = nn.Linear(size, CLASSES)

    def forward(self, x, lengths=None):
        packed = x
        if lengths is not None:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, state = self.encoder.rnn(packed)
        hidden = state[0] if isinstance(state, tuple) else state
        last = hidden[-2:] if self.encoder.rnn.bidirectional else hidden[-1:]
        return self.classify(torch.cat(tuple(last), dim=-1))


def write_network(path: Path, seed=0, **options) -> Network:
    torch.manual_seed(seed)
    network = Network(**options)
    torch.save(network.state_dict(), path)
    return network


def write_ring(dense: Path, out: Path, ranks="2", shape="4x3:4x4", init="tr-als") -> Path:
    return write_artifact(out, decompose_checkpoint(dense, Plan.of(shape, ranks), init=init))


def train_steps(network: Network, seed=0, epochs=30) -> Network:
    """Train a network with a plain loop of its own, so that files of good networks need no code under test."""
    found = arrays(seed)
    x, y = torch.from_numpy(found["x_train"]), torch.from_numpy(found["y_train"])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(epochs):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


def write_files(folder: Path, *, ranks="2", **options) -> dict[str, Path]:
    """Write `data.npz`, a trained `dense.pt` and `ring.safetensors`."""
    paths = {"data": folder / "data.npz", "dense": folder / "dense.pt", "ring": folder / "ring.safetensors"}
    np.savez(paths["data"], **arrays())
    torch.manual_seed(0)
    torch.save(train_steps(Network(**options)).state_dict(), paths["dense"])
    write_ring(paths["dense"], paths["ring"], ranks)
    return paths
