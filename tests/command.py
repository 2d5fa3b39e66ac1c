"""The command line run inside the test's own process: the same `main`, the same exit codes, no second interpreter.

    done = run("decompose", checkpoint, "--shape", "8x5:8x4", "--ranks", 3, "-o", out)
    assert done.code == 0, done.stderr

A fault of the user is a code and a line on stderr, as in a shell; a bug is raised with its traceback. Only what
needs a process (signals, pipes, descriptors, memory limits) starts one, through `process`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from click.testing import CliRunner

from trcompress.cli.main import main


class Result(NamedTuple):
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON document on stdout; a run that failed is an AssertionError with its stderr."""
        assert self.code == 0, self.stderr
        return json.loads(self.stdout)


def run(*words: object, cwd: Path | None = None, **environment: str) -> Result:
    """Run `trcompress WORDS` in this process, with its streams captured apart.

    Args:
        words: the arguments, turned to text.
        cwd: the folder to run in.
        environment: variables to set for the run.
    """
    typed = ["trcompress", *map(str, words)]
    with (
        _handlers_kept(),
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", typed),
        CliRunner(env=environment).isolation() as (stdout, stderr, _),
    ):
        code = _exit_code()
        sys.stdout.flush()
        sys.stderr.flush()
    return Result(code, stdout.getvalue().decode(), stderr.getvalue().decode())


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Give the signals back to the tests' own process: `main` takes them for the life of a command."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    hook = sys.unraisablehook
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code() -> int:
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def process(*words: object, cwd: Path | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `python -m trcompress WORDS` as its own process, on one thread; `options` are subprocess.run's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(
        [sys.executable, "-m", "trcompress", *map(str, words)],
        text=True, cwd=cwd, env=environment, check=False, **pipes,
    )  # fmt: skip
