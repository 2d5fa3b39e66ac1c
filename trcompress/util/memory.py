"""How much memory a call takes at its peak, how much autograd keeps after it, and how much is left."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE = Path("/proc/meminfo")


def peak_extra_bytes(call: Callable[[], object], device: torch.device) -> int | None:
    """Measure the peak of a call above the state before it.

    Args:
        call: what to run.
        device: where it works; on CUDA the device's own memory is measured, else the process's resident memory.

    Returns:
        Bytes, or None where the system does not tell (no Linux, or a container without `clear_refs`).

    Example:
        >>> peak_extra_bytes(lambda: torch.ones(10**6), torch.device("cpu")) in (None, *range(3_900_000, 10**7))
        True
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    if not _reset_peak():
        return None
    before = status_bytes("VmRSS")
    call()
    return max(0, status_bytes("VmHWM") - before)


def saved_bytes(call: Callable[[], object], beside: Iterable[torch.Tensor]) -> int:
    """Count what autograd keeps for the backward pass of a call.

    Args:
        call: a forward pass.
        beside: tensors that are there anyway, as inputs and parameters; their storages do not count.

    Example:
        >>> x = torch.ones(10, requires_grad=True)
        >>> saved_bytes(lambda: x.exp(), [x])
        40
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in beside}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    del result
    return sum(kept.values())


def _reset_peak() -> bool:
    """Give freed memory back to the system and let its record of the peak begin anew."""
    gc.collect()
    try:
        trimmed = give_back()
        CLEAR.write_text("5")
    except OSError:
        return False
    return trimmed


def give_back() -> bool:
    """Give memory that was freed back to the system; False where the C library has no word for it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        return False
    return True


def available_bytes() -> int | None:
    """Return how much memory this process can still take, or None where the system does not tell (no Linux).

    What the machine has free, caches that it can drop included, and what a limit on the address space leaves.
    """
    try:
        import resource

        line = next(line for line in MACHINE.read_text().splitlines() if line.startswith("MemAvailable:"))
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, StopIteration):
        return None
    free = int(line.split()[1]) * 1024
    return free if limit == resource.RLIM_INFINITY else max(0, min(free, limit - status_bytes("VmSize")))


def status_bytes(field: str) -> int:
    """Read one of the process's own figures from Linux, as "VmHWM", its highest resident memory so far."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024
