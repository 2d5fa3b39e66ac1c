"""A call with its time and its peak memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from trcompress.util.memory import peak_extra_bytes


def measured(call: Callable[[], Any]) -> tuple[Any, dict[str, float | None]]:
    """Run a call; return what it gave, its seconds, those of the processor, and its peak above the start, in MB."""
    kept: list[Any] = []

    def run() -> None:
        kept.append(call())

    started, worked = time.perf_counter(), time.process_time()
    extra = peak_extra_bytes(run, torch.device("cpu"))
    seconds, cpu = time.perf_counter() - started, time.process_time() - worked
    if extra is None:
        kept or run()  # the system does not tell: the call has not run yet
    return kept[0], {"seconds": seconds, "cpu_seconds": cpu, "peak_MB": None if extra is None else extra / 2**20}
