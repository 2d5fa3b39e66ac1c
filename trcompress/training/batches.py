"""Which sequences form which batch, and reading the next batch while the current one is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trcompress.data import Split
from trcompress.training.distributed import Team


@dataclass(frozen=True)
class Batch:
    """One process's part of a batch, on its device.

    Args:
        x: (B, T, I), or tokens (B, T).
        y: (B,) class indices; (B, T) for labelling, negative where none counts; (B, D) numbers.
        lengths: (B,) on the CPU, or None where all steps count.
        mask: (B,) 1 for a sequence that counts, 0 for a filler (a process whose part is empty gets one).
        indices: (B,) positions in the split.
        more: other inputs of the network, by the name of its argument.
    """

    x: Tensor
    y: Tensor
    lengths: Tensor | None
    mask: Tensor
    indices: np.ndarray
    more: dict[str, Tensor] = field(default_factory=dict)

    @property
    def valid(self) -> Tensor:
        """(B, T) 1 for a step that counts: within its sequence, and labelled; for labels (B, T)."""
        valid = self.y >= 0
        if self.lengths is not None:
            steps = torch.arange(self.y.shape[1], device=self.y.device)
            valid = valid & (steps < self.lengths.to(self.y.device).unsqueeze(1))
        return valid.to(self.mask.dtype)


@dataclass(frozen=True)
class Request:
    """What to read: positions in the split, and the state of its random frames (None: deterministic)."""

    indices: np.ndarray
    draw: tuple[int, ...] | None = None


def shuffled_requests(split: Split, batch_size: int, *, seed: int, epoch: int) -> list[Request]:
    """Divide a split into batches in an order that depends on the seed and the epoch alone."""
    order = np.random.default_rng((seed, epoch)).permutation(len(split))
    chunks = chunked(order, batch_size)
    return [Request(chunk, (seed, epoch, number)) for number, chunk in enumerate(chunks)]


def ordered_requests(split: Split, batch_size: int) -> list[Request]:
    """Divide a split into batches in its own order."""
    return [Request(chunk) for chunk in chunked(np.arange(len(split)), batch_size)]


def chunked(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut an array into pieces of `size`, the last one maybe shorter.

    Example:
        >>> [list(map(int, chunk)) for chunk in chunked(np.arange(5), 2)]
        [[0, 1], [2, 3], [4]]
    """
    return [order[start : start + size] for start in range(0, len(order), size)]


def read_batches(split: Split, requests: Sequence[Request], team: Team) -> Iterator[Batch]:
    """Yield this process's part of each requested batch; the next one is read while one is in use."""
    if not requests:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="read-batches") as pool:
        coming = pool.submit(_read, split, requests[0], team)
        for request in requests[1:]:
            ready = coming.result()
            coming = pool.submit(_read, split, request, team)
            yield _moved(ready, team)
        yield _moved(coming.result(), team)


def _read(split: Split, request: Request, team: Team) -> Batch:
    mine = team.slice(request.indices)
    mask = torch.ones(max(1, len(mine)))
    if not len(mine):
        mine, mask = request.indices[:1], torch.zeros(1)
    rng = None if request.draw is None else np.random.default_rng(request.draw)
    x, y, lengths = split.batch(mine, rng=rng)
    if team.device.type == "cuda":
        x, y, mask = x.pin_memory(), y.pin_memory(), mask.pin_memory()
    more = split.more(mine) if hasattr(split, "more") else {}
    return Batch(x, y, lengths, mask, mine, more)


def _moved(batch: Batch, team: Team) -> Batch:
    x, y, mask = (value.to(team.device, non_blocking=True) for value in (batch.x, batch.y, batch.mask))
    more = {name: value.to(team.device, non_blocking=True) for name, value in batch.more.items()}
    return Batch(x, y, batch.lengths, mask, batch.indices, more)
