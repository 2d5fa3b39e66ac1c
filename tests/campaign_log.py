"""What a campaign of many trials remembers: a line a trial in files that outlive its processes.

A campaign that is cut off goes on where it was, with as many workers as it is then given; one that was begun on
other sources or with other options is refused, so that all counts are of one tree.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("trcompress", "cli", "tests")


def sources_hash() -> str:
    """Hash every Python file of the package, of the command line and of the tests."""
    digest = hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in (ROOT / name).rglob("*.py")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


class CampaignLog:
    """The trials of one campaign that are done.

    Args:
        folder: where its files lie; made where it is missing.
        facts: what all trials have in common: seed, options.
        fresh: forget an earlier campaign in this folder.

    Raises:
        SystemExit: the folder holds a campaign with other facts or of other sources.
    """

    def __init__(self, folder: Path, facts: dict[str, object], fresh: bool = False) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        if fresh:
            for path in (*folder.glob("trials.*.log"), folder / "facts.json"):
                path.unlink(missing_ok=True)
        facts = {**facts, "sources": sources_hash()}
        if (folder / "facts.json").exists():
            known = json.loads((folder / "facts.json").read_text())
            if known != facts:
                raise SystemExit(f"{folder} holds another campaign: {known}, not {facts}; go on with --fresh")
        (folder / "facts.json").write_text(json.dumps(facts) + "\n")
        self.sources = facts["sources"]

    def done(self) -> dict[int, str]:
        """What came of each trial, by its number; a line that was cut off does not count."""
        found = {}
        for path in sorted(self.folder.glob("trials.*.log")):
            for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
                number, _, text = line.partition("\t")
                if text.endswith("\n"):
                    found[int(number)] = text[:-1]
        return found

    def open(self, worker: int) -> TextIO:
        """Open a worker's own file to append to, behind the last whole line."""
        path = self.folder / f"trials.{worker}.log"
        whole = path.read_bytes().rpartition(b"\n")[0] + b"\n" if path.exists() else b"\n"
        path.write_bytes(whole.removeprefix(b"\n"))
        return path.open("a", encoding="utf-8", buffering=1)


def left(total: int, done: dict[int, str], worker: int, workers: int) -> Iterator[int]:
    """Yield the numbers of one worker that are not done, in order."""
    return (number for number in range(worker, total, workers) if number not in done)


def in_forks(work: Callable[[int], None], workers: int) -> None:
    """Run `work(worker)` in a fork for each worker, in sessions of their own; when cut off, end them first.

    Raises:
        SystemExit: a worker failed.
    """
    running = [forked(partial(_work_apart, work, worker)) for worker in range(workers)]
    codes = []
    try:
        while len(codes) < workers:
            codes.append(os.waitstatus_to_exitcode(os.waitpid(running[len(codes)], 0)[1]))
    finally:
        for child in running[len(codes) :]:
            os.killpg(child, signal.SIGKILL)
    if any(codes):
        raise SystemExit(f"workers ended with the codes {codes}; run the same command again to go on")


def _work_apart(work: Callable[[int], None], worker: int) -> None:
    os.setsid()
    work(worker)


def forked(run: Callable[[], object], *, masked: Collection[signal.Signals] = ()) -> int:
    """Call `run` in a fork; returns its process number.

    The fork ends as a process of its own would: with 0, with the code of a SystemExit, with 1 after a traceback or
    the words of a SystemExit; with 130 where it is interrupted.

    Args:
        run: what the fork does before it ends.
        masked: signals that are held back until `run` can be ended by them.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, masked)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, masked)
        return child
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, masked)
        run()
        code = 0
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
        else:
            code = int(stop.code or 0)
    except KeyboardInterrupt:  # before or after a command's own handling
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def stop_without(parent: int) -> None:
    """End this process where the campaign that it works for was killed.

    Raises:
        SystemExit: the process of this number is gone.
    """
    try:
        os.kill(parent, 0)
    except ProcessLookupError:
        raise SystemExit("the campaign is gone") from None
