"""The machine a result comes from."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from trcompress.util.strict import StrictModel


class Hardware(StrictModel):
    """Where it ran: enough to judge timings, nothing that names a person or a place."""

    cpu: str
    cores: int
    memory_gib: float
    accelerator: str
    system: str
    python: str
    torch: str


def this_machine() -> Hardware:
    """Describe this machine: processor, cores, memory, versions; no host name, user or path."""
    import torch

    cuda = torch.cuda.is_available()
    return Hardware(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=round(_memory_bytes() / 2**30, 1),
        accelerator=torch.cuda.get_device_name() if cuda else "none",
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0
