"""Measure calls side by side: medians of interleaved rounds, on CPU and CUDA alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping

import torch


def one_ms(call: Callable[[], object], device: torch.device) -> float:
    """Milliseconds of one call, the device's queue included."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end)
    begin = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - begin)


def repeated_ms(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Milliseconds of one call, averaged over a few in a row where one is too short for the clock."""
    if repeats == 1:
        return one_ms(call, device)

    def several() -> None:
        for _ in range(repeats):
            call()

    return one_ms(several, device) / repeats


def side_by_side(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
    rounds: tuple[int, int] = (5, 200),
) -> dict[str, float]:
    """Time calls in turn, round after round, so that a busy moment of the machine meets all of them.

    Args:
        calls: what to time, by name.
        device: where the work happens.
        seconds: time for all of it, warm-up apart.
        rounds: at least and at most so many rounds.

    Returns:
        The median of each, in milliseconds.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(0.5 / max(one_ms(call, device), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(rounds[1]):
        if done >= rounds[0] and time.perf_counter() > end:
            break
        for name, call in calls.items():
            times[name].append(repeated_ms(call, device, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def saved_bytes(call: Callable[[], object], beside: Iterable[torch.Tensor]) -> int:
    """Bytes that autograd keeps for the backward pass of a call, storages of `beside` not counted."""
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
