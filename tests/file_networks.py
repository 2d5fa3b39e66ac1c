"""Networks that a file describes, built from modules and arrays of a test."""

import numpy as np
from safetensors.torch import save_file

from trcompress.checkpoint import read_checkpoint
from trcompress.network.from_file import FileNetwork
from trcompress.network.model_file import of_checkpoint
from trcompress.network.read_calibration import read_calibration


def save_network(path, **modules):
    """Write modules as one checkpoint, under their names."""
    tensors = {f"{name}.{key}": value for name, one in modules.items() for key, value in one.state_dict().items()}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return read_checkpoint(path)


def network_of(checkpoint, arrays, tmp_path, head=None, compare=None, **options):
    """The network of a checkpoint on arrays that are written to a file first, and its data."""
    np.savez(tmp_path / "data.npz", **arrays)
    file = of_checkpoint(checkpoint, checkpoint.path)
    data = read_calibration(tmp_path / "data.npz", file, **options)
    return FileNetwork(file, data, head, compare), data


def first_batch(data, count):
    """The first examples as one batch."""
    (batch,) = data.batches(np.arange(count), count)
    return batch
