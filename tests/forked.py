"""Commands in forks of one process that has loaded everything: real descriptors and limits, no wait for a start.

    with forks() as run:
        done = run("inspect", "model.pt", stdout="full", cwd=folder)
        assert (done.code, done.stderr) == (2, "error: ...")

Each command runs on a fork's main thread, from `main` to the end of the interpreter. Run as a script, this file is
that process: it reads one JSON request a line and answers with one.
"""

from __future__ import annotations

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

STREAMS = ("kept", "closed", "broken", "full")
"""What a standard stream may be: read by the test, closed, a pipe that nobody reads, a full device."""


class Done(NamedTuple):
    """What a command left behind; a code below zero is a signal's."""

    code: int
    stdout: str
    stderr: str


@contextmanager
def forks() -> Iterator[Callable[..., Done]]:
    """Start the process; yield `run(*words, cwd=, stdout=, stderr=, limits=)`.

    `limits` maps names of `resource`, as "RLIMIT_DATA", to bytes above what the process takes before the command.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as child:

        def run(*words: object, **how: Any) -> Done:
            request = {"words": list(map(str, words)), **how, "cwd": str(how.get("cwd", Path.cwd()))}
            print(json.dumps(request), file=child.stdin, flush=True)
            return Done(*json.loads(child.stdout.readline()))

        yield run
        child.stdin.close()


class _Fork(BaseException):
    """Unwinds a fork to the end of this file, where the command runs."""


def _serve() -> None:
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin:
        os.write(answers, (json.dumps(_fork(**json.loads(line))) + "\n").encode())


def _fork(
    words: list[str], cwd: str, stdout: str = "kept", stderr: str = "kept", limits: dict[str, int] | None = None
) -> tuple[int, str, str]:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        number = os.fork()
        if number == 0:
            os.chdir(cwd)
            for descriptor, state, file in ((1, stdout, out), (2, stderr, err)):
                _open(descriptor, state, file.fileno())
            _limit(limits or {})
            sys.argv = ["trcompress", *words]
            raise _Fork
        code = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        told = []
        for file in (out, err):
            file.seek(0)
            told.append(file.read().decode("utf-8", "replace"))
    return code, *told


def _open(descriptor: int, state: str, kept: int) -> None:
    """Make a standard stream what it is asked to be, as the interpreter finds it at its start."""
    name = {1: "stdout", 2: "stderr"}[descriptor]
    if state == "closed":
        os.close(descriptor)
        setattr(sys, name, None)
        return
    if state == "broken":
        unread, end = os.pipe()
        os.close(unread)
    else:
        end = kept if state == "kept" else os.open("/dev/full", os.O_WRONLY)
    os.dup2(end, descriptor)
    stream = io.TextIOWrapper(io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), encoding="utf-8")
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def _limit(limits: dict[str, int]) -> None:
    fields = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
    for name, room in limits.items():
        status = Path("/proc/self/status").read_text().splitlines()
        taken = next(int(line.split()[1]) << 10 for line in status if line.startswith(f"{fields[name]}:"))
        resource.setrlimit(getattr(resource, name), (taken + room, taken + room))


def _load() -> None:
    """Import what commands import, but for what only some of them need."""
    from importlib import import_module
    from pkgutil import walk_packages

    import trcompress

    for one in walk_packages(trcompress.__path__, "trcompress."):
        if not one.name.endswith("__main__"):
            with suppress(ImportError):
                import_module(one.name)


if __name__ == "__main__":
    from trcompress.cli.main import main

    _load()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _serve()
    except _Fork:
        pass
    else:
        sys.exit()
    main()
