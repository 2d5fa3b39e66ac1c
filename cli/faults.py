"""Faults that no part of the library raised: the disk, the memory, a stream that somebody closed."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
OUT_OF_MEMORY = (
    "out of memory", "can't allocate memory", "not enough memory", "can't start new thread",
    "could not create a primitive", "failed to map segment", "error return without exception set",
)  # fmt: skip
"""What is said by PyTorch's allocators, threads, oneDNN, the loader of shared objects, extensions in C."""


def machine_fault(error: BaseException) -> tuple[str, int] | None:
    """Return the line and the exit code of a fault of the machine; None for a bug, which keeps its traceback.

    Example:
        >>> machine_fault(OSError(28, "No space left on device", "out.json"))
        ('cannot write out.json: No space left on device; free some space and run again', 2)
        >>> machine_fault(KeyError("weight")) is None
        True
    """
    if isinstance(error, OSError) and error.errno != errno.ENOMEM:
        return _system_fault(error)
    if isinstance(error, MemoryError | OSError) or _says_out_of_memory(error):
        return (
            "not enough memory for this: close other programs, or choose smaller modes, ranks or batches "
            f"({(str(error).splitlines() or ['MemoryError'])[0][:200]})",
            2,
        )
    if isinstance(error, RecursionError):
        return "a file nests deeper than can be read: write it flatter", 3
    return None


def _system_fault(error: OSError) -> tuple[str, int]:
    where = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    reason = error.strerror or str(error)
    if error.errno in FULL:
        return f"cannot write{where or ' the result'}: {reason}; free some space and run again", 2
    return f"cannot use{where or ' a file or stream'}: {reason}", 3


def _says_out_of_memory(error: BaseException) -> bool:
    said = str(error).lower()
    return isinstance(error, RuntimeError | ImportError | SystemError) and any(one in said for one in OUT_OF_MEMORY)


def open_closed_streams() -> None:
    """Put the null device in place of standard streams that are closed.

    The next file opened would otherwise become stdout or stderr, and be written into by whoever prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - a standard stream


class _Lossy(io.FileIO):
    """A file that takes what cannot be written, too: there is nowhere left to say that it was lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def keep_exit_codes() -> None:
    """Let a message that cannot be written, on a full disk or a closed pipe, not decide how the command ends."""
    if isinstance(sys.stderr, io.TextIOWrapper) and sys.stderr is sys.__stderr__:
        raw = _Lossy(sys.stderr.fileno(), "w", closefd=False)
        sys.stderr.flush()
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(raw), encoding=sys.stderr.encoding, errors=sys.stderr.errors, line_buffering=True
        )


def print_any_character() -> None:
    """Write what the terminal's encoding lacks, and undecodable bytes of file names, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP end a command as Ctrl-C does, so that it clears up; one that is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    sys.unraisablehook = _interrupt_again


def was_stopped() -> bool:
    """Return True once a signal has asked the command to end, whatever became of its exception."""
    return bool(_received)


_received: list[int] = []


def _interrupt(signum: int, frame: FrameType | None) -> None:
    _received.append(signum)
    raise KeyboardInterrupt


def _interrupt_again(lost: sys.UnraisableHookArgs) -> None:
    """Send a signal again whose exception fell into a callback that can raise nothing, as a finalizer."""
    if _received and issubclass(lost.exc_type, KeyboardInterrupt):
        again = threading.Timer(0.05, os.kill, (os.getpid(), _received[-1]))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)
