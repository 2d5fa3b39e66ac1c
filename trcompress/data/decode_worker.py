"""A process that decodes clips for another: one JSON request a line in, one JSON answer a line out.

It is a process of its own, not a fork: it needs no torch, starts clean whatever the caller's threads do, and
a file that crashes the decoder or makes it hang takes down nothing but this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import IO, Any

from trcompress.data.decode import DecodeSettings, UnreadableClipError, decode_clip
from trcompress.data.frame_cache import write_entry

_MEMORY_BYTES = 3 * 2**30


def main() -> None:
    """Answer requests until the caller closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the caller, which ends this process
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    _bound_memory()
    serve(sys.stdin, answers)


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Decode one clip per line of `requests` and say on `answers` how it went."""
    for line in requests:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


def answer(request: dict[str, Any]) -> dict[str, str]:
    """Decode `request["clip"]` into the file `request["target"]`.

    Returns:
        {} if it went well; {"unreadable": why} if the clip is at fault; {"failed": why} if the disk is.
    """
    try:
        clip = decode_clip(request["clip"], DecodeSettings(**request["settings"]))
    except UnreadableClipError as error:
        return {"unreadable": str(error)}
    try:
        write_entry(Path(request["target"]), clip)
    except OSError as error:
        return {"failed": error.strerror or str(error)}
    return {}


def _bound_memory() -> None:
    """Limit what a hostile file can make the decoder allocate, where the system can."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, most))
