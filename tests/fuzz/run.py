"""Feed damaged files to every reader, and count what comes of it.

    python tests/fuzz/run.py --inputs 100000 --report RELIABILITY.md

Inputs are tried in child processes with bounded memory and time; one that ends its child is counted, and the next
child goes on behind it. A campaign that was cut off goes on when the same command is run again. The file of every
finding is kept in --folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaign_log import CampaignLog, in_forks, left, stop_without
from reliability import table_of, write_section

from fuzz.campaign import one_input, run_input
from fuzz.corpus import make
from fuzz.targets import FindingError

MOST_BYTES = 6 << 30
MOST_SECONDS = 20  # of a processor
MOST_WAITED_SECONDS = 100
COLUMNS = ("read", "refused", "refused as unsafe", "FINDING")


def main() -> None:
    """Run the campaign, or be a child of one of its workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("fuzz-run"), help="what is done, and files of findings")
    parser.add_argument("--fresh", action="store_true", help="begin anew where the folder holds a campaign")
    parser.add_argument("--report", type=Path, help="file whose section `fuzz` gets the counts")
    parser.add_argument("--child", nargs=3, metavar=("SHELF", "WORKER", "CAMPAIGN"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    log = CampaignLog(given.folder, {"inputs": given.inputs, "seed": given.seed}, given.fresh and not given.child)
    if given.child:
        shelf, worker, parent = given.child
        return _child(given, log, Path(shelf), int(worker), int(parent))
    with tempfile.TemporaryDirectory() as folder:
        shelf = Path(folder) / "shelf"
        make(shelf)
        in_forks(lambda worker: _supervise(given, log, shelf, worker), given.workers)
    _tell(log, given)
    return None


def _supervise(given: argparse.Namespace, log: CampaignLog, shelf: Path, worker: int) -> None:
    """Start children until all inputs of a worker are done; one that ends on an input is a finding."""
    words = [sys.executable, __file__, "--inputs", given.inputs, "--seed", given.seed, "--workers", given.workers]
    words += ["--folder", given.folder, "--child", shelf, worker, os.getppid()]
    while True:
        done = subprocess.run([str(word) for word in words], check=False, capture_output=True, text=True)
        number = next(left(given.inputs, log.done(), worker, given.workers), None)
        if number is None:
            return
        if done.returncode == 1:  # not an input's fault: files that are missing, an error in the tests themselves
            raise SystemExit(done.stderr[-2000:])
        with log.open(worker) as stream:
            stream.write(f"{number}\t?\tFINDING: the process ended with code {done.returncode}\n")


def _tell(log: CampaignLog, given: argparse.Namespace) -> None:
    counts: Counter[str] = Counter()
    findings: dict[str, list[int]] = {}
    for number, line in sorted(log.done().items()):
        target, what = line.split("\t", 1)
        counts[f"{target}: {what.partition(':')[0]}"] += 1
        if what.startswith("FINDING"):
            findings.setdefault(what, []).append(number)
    for name, count in sorted(counts.items()):
        print(f"{count:>8,}  {name}")
    for what, numbers in sorted(findings.items(), key=lambda item: -len(item[1])):
        print(f"{len(numbers):>8,}  {what}  (first: {numbers[0]})")
    if given.report:
        words = f"Seed {given.seed}, one tree: the SHA-256 of its Python files begins with {log.sources}."
        write_section(given.report, "fuzz", [*table_of(counts, COLUMNS, "files damaged"), "", words])


def _child(given: argparse.Namespace, log: CampaignLog, shelf: Path, worker: int, parent: int) -> None:
    """Try inputs until all of a worker are done; an alarm ends one that takes too long."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.signal(signal.SIGPROF, _late)
    signal.signal(signal.SIGALRM, _late)
    with tempfile.TemporaryDirectory() as folder, log.open(worker) as stream:
        for number in left(given.inputs, log.done(), worker, given.workers):
            stop_without(parent)
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            signal.alarm(MOST_WAITED_SECONDS)
            try:
                target, what = run_input(number, given.seed, shelf, Path(folder))
            except (FindingError, _LateError) as error:
                target, path = one_input(number, given.seed, shelf, Path(folder))
                what = f"FINDING: {target}: {error}"
                shutil.copy(path, given.folder / f"{target}-{number}-{path.name}")
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
            line = what.replace("\n", " ")
            stream.write(f"{number}\t{target}\t{line}\n")


class _LateError(BaseException):
    """An input took too long."""


def _late(signum: int, frame: object) -> None:
    raise _LateError(f"more than {MOST_SECONDS} s of a processor, or {MOST_WAITED_SECONDS} s in all")


if __name__ == "__main__":
    main()
