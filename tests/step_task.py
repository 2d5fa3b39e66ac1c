"""A task that a small LSTM learns in a second: sequences whose class is where their largest step lies."""

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn


def write_step_task(folder: Path) -> tuple[Path, Path]:
    """Train a dense classifier; write it and its data."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 360)
    x = rng.normal(0, 0.3, (360, 6, 40)).astype(np.float32)
    x[np.arange(360), 2 * y] += rng.normal(0, 1, 40).astype(np.float32)
    np.savez(folder / "data.npz", x_train=x[:280], y_train=y[:280], x_test=x[280:], y_test=y[280:])
    torch.manual_seed(0)
    model = nn.ModuleDict({"rnn": nn.LSTM(40, 32, batch_first=True), "fc": nn.Linear(32, 3)})
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        scores = model["fc"](model["rnn"](torch.from_numpy(x[:280]))[1][0][-1])
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(y[:280]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    save_file(model.state_dict(), folder / "dense.safetensors")
    return folder / "dense.safetensors", folder / "data.npz"
