"""The processes that train together: who writes, who takes which rows, how figures are added up."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch import distributed as dist

from trcompress.errors import UsageError


@dataclass(frozen=True)
class Team:
    """This process among all that train one model.

    Args:
        rank: 0 ... size - 1.
        size: number of processes; 1 where there is no torchrun.
        device: where this process computes.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """True where this process writes files and shows progress."""
        return self.rank == 0

    def slice(self, indices: np.ndarray) -> np.ndarray:
        """Take this process's part of a batch; parts differ in size by at most one row, and may be empty."""
        return np.array_split(indices, self.size)[self.rank]

    def sum_(self, *tensors: Tensor) -> None:
        """Add tensors over all processes, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            dist.barrier()


def choose_device(name: str) -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:1" into a device that is there.

    Raises:
        UsageError: no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"no device {name!r} on this machine ({reason}); use `device=cpu`, or auto") from error
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


@contextmanager
def team(device: str) -> Iterator[Team]:
    """Join the processes that torchrun started, or work alone.

    Raises:
        UsageError: no such device.
    """
    where = choose_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        size = dist.get_world_size() if dist.is_initialized() else 1
        yield Team(dist.get_rank() if size > 1 else 0, size, where)
        return
    if where.type == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
    try:
        yield Team(dist.get_rank(), dist.get_world_size(), where)
        dist.barrier()  # none leaves while another still speaks to it
    finally:
        dist.destroy_process_group()
