"""Several decoding processes at once, with a time limit per clip and a clean end on Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trcompress.data.decode import DecodeSettings
from trcompress.data.decode_worker import answer
from trcompress.errors import OutputFileError

_START = "import sys; sys.path.append(sys.argv[1]); from trcompress.data.decode_worker import main; main()"


@dataclass(frozen=True)
class DecodeJob:
    """One clip to decode into one cache file."""

    clip: Path
    target: Path


def decode_all(
    jobs: Sequence[DecodeJob], settings: DecodeSettings, workers: int, timeout_s: float
) -> Generator[tuple[DecodeJob, str], None, None]:
    """Decode clips into their cache files; close the iterator to stop early.

    Args:
        jobs: clips and targets; a target appears whole or not at all.
        settings: how to decode.
        workers: processes; 0 decodes in this process, without limits of time and memory.
        timeout_s: give up on a clip after this time.

    Yields:
        Each job as it is done, with what is wrong with its clip ("" if nothing).

    Raises:
        OutputFileError: the cache cannot be written.
    """
    if workers == 0:
        for job in jobs:
            yield job, _decode(job, settings, answer)
        return
    pool = _Pool(jobs, settings, timeout_s)
    try:
        yield from pool.run(min(workers, len(jobs)))
    finally:
        pool.stop()


def _decode(job: DecodeJob, settings: DecodeSettings, ask: Callable[[dict[str, Any]], dict[str, str]]) -> str:
    """Have a clip decoded into a temporary file, and give it its name; return what is wrong with the clip."""
    part = job.target.with_name(f"{uuid.uuid4().hex}.part")
    try:
        reply = ask({"clip": str(job.clip), "target": str(part), "settings": asdict(settings)})
        if "failed" in reply:
            raise OutputFileError(
                f"decoded frames cannot be written to {job.target.parent}: {reply['failed']}; "
                "free some space, or name another folder with cache_dir"
            )
        if not reply:
            part.replace(job.target)
        return reply.get("unreadable", "")
    finally:
        part.unlink(missing_ok=True)


class _Pool:
    """Threads that each keep one worker process busy, and replace it when it dies."""

    def __init__(self, jobs: Sequence[DecodeJob], settings: DecodeSettings, timeout_s: float) -> None:
        self._settings, self._timeout_s, self._count = settings, timeout_s, len(jobs)
        self._jobs: queue.SimpleQueue[DecodeJob] = queue.SimpleQueue()
        for job in jobs:
            self._jobs.put(job)
        self._done: queue.SimpleQueue[tuple[DecodeJob, str] | BaseException] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._workers: list[_Worker] = []
        self._threads: list[threading.Thread] = []

    def run(self, workers: int) -> Iterator[tuple[DecodeJob, str]]:
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()
        for _ in range(self._count):
            done = self._done.get()
            if isinstance(done, BaseException):
                raise done
            yield done

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for worker in self._workers:
                worker.kill()
        for thread in self._threads:
            thread.join()
        for worker in self._workers:
            worker.close()

    def _work(self) -> None:
        worker = None
        try:
            while not self._stopped:
                job = self._jobs.get_nowait()
                if worker is None or not worker.alive:
                    worker = self._start()
                self._done.put((job, _decode(job, self._settings, worker.ask)))
        except (queue.Empty, _StoppedError):
            return
        except BaseException as error:  # handed to the caller's thread, which raises it
            self._done.put(error)

    def _start(self) -> _Worker:
        with self._lock:
            if self._stopped:
                raise _StoppedError
            worker = _Worker(self._timeout_s)
            self._workers.append(worker)
        return worker


class _StoppedError(Exception):
    """The pool was told to stop."""


class _Worker:
    """One process of `decode_worker`, asked one clip at a time."""

    def __init__(self, timeout_s: float) -> None:
        self.alive = True
        self._expired = False
        self._timeout_s = timeout_s
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, str(Path(__file__).resolve().parents[2])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )

    def ask(self, request: dict[str, Any]) -> dict[str, str]:
        """Send a request and wait for the answer; a process that dies or hangs makes the clip unreadable."""
        timer = threading.Timer(self._timeout_s, self._expire)
        timer.start()
        try:
            line = self._exchange(json.dumps(request))
        finally:
            timer.cancel()
        if line:
            return json.loads(line)
        self.alive = False
        code = self._process.wait()
        if self._expired:
            return {"unreadable": f"was not decoded within clip_timeout_s = {self._timeout_s:g}"}
        return {"unreadable": f"ended its decoding process (code {code})"}

    def _expire(self) -> None:
        self._expired = True
        self.kill()

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()

    def _exchange(self, line: str) -> str:
        if self._process.stdin is None or self._process.stdout is None:
            return ""
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except OSError:
            return ""
        return self._process.stdout.readline()
