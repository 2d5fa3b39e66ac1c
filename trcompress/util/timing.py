"""Measure calls side by side or each in its own turn: medians, on CPU and CUDA alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def side_by_side(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
    rounds: tuple[int, int] = (5, 200),
    turn_ms: float = 0.5,
) -> dict[str, float]:
    """Time calls in turn, round after round, so that a busy moment of the machine meets all of them.

    Args:
        calls: what to time, by name.
        device: where the work happens.
        seconds: time for all of it, warm-up apart.
        rounds: at least and at most so many rounds.
        turn_ms: in a turn a call is repeated until so much time has passed; its mean counts.

    Returns:
        The median of each, in milliseconds.

    Example:
        >>> sorted(side_by_side({"a": int, "b": float}, torch.device("cpu"), seconds=0.0))
        ['a', 'b']
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, round(turn_ms / max(_one_ms(call, device), 1e-3)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    for done in range(rounds[1]):
        if done >= rounds[0] and time.perf_counter() > end:
            break
        for name, call in calls.items():
            times[name].append(_repeated_ms(call, device, repeats[name]))
    return {name: statistics.median(values) for name, values in times.items()}


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    device: torch.device,
    seconds: float,
    turns: int = 3,
    fewest: int = 5,
) -> dict[str, float]:
    """Time calls hot: each is warmed up and then repeated alone, so that it finds caches as it left them.

    Args:
        calls: what to time, by name.
        device: where the work happens.
        seconds: time for all of it, warm-up apart.
        turns: so often every call has its turn; the best turn counts, for the machine may have other work.
        fewest: calls in a turn at least.

    Returns:
        The median of each call's best turn, in milliseconds.

    Example:
        >>> sorted(in_turns({"a": int, "b": float}, torch.device("cpu"), seconds=0.0))
        ['a', 'b']
    """
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(turns):
        for name, call in calls.items():
            for _ in range(3):
                call()
            times: list[float] = []
            end = time.perf_counter() + seconds / (turns * len(calls))
            while len(times) < fewest or time.perf_counter() < end:
                times.append(_one_ms(call, device))
            best[name] = min(best[name], statistics.median(times))
    return best


def _one_ms(call: Callable[[], object], device: torch.device) -> float:
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


def _repeated_ms(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Milliseconds of one call, averaged over a few in a row where one is too short for the clock."""

    def several() -> None:
        for _ in range(repeats):
            call()

    return _one_ms(several, device) / repeats
