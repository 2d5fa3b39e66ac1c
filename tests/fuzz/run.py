"""Feed damaged files to every reader, and count what comes of it.

    python tests/fuzz/run.py --inputs 100000 --counts counts.json --report RELIABILITY.md

Inputs are tried in a child process with bounded memory and time; one that ends the child is counted, and the next
child goes on behind it. The file of every finding is kept in --keep.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reliability import table_of, write_section

from fuzz.campaign import one_input, run_input
from fuzz.corpus import make
from fuzz.targets import FindingError

MOST_BYTES = 6 << 30
MOST_SECONDS = 20
COLUMNS = ("read", "refused", "refused as unsafe", "FINDING")


def main() -> None:
    """Run the campaign, or be its child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-findings"), help="where findings are kept")
    parser.add_argument("--counts", type=Path, help="JSON of the counts, added to what is there")
    parser.add_argument("--report", type=Path, help="file whose section `fuzz` gets the counts")
    parser.add_argument("--child", nargs=2, type=Path, metavar=("SHELF", "LOG"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        _child(given, *given.child)
    else:
        _campaign(given)


def _campaign(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shelf, log = Path(folder) / "shelf", Path(folder) / "log"
        make(shelf)
        first, last = given.first, given.first + given.inputs
        while first < last:
            words = [sys.executable, __file__, "--first", first, "--inputs", last - first, "--seed", given.seed]
            words += ["--keep", given.keep, "--child", shelf, log]
            code = subprocess.run([str(word) for word in words], check=False, stderr=subprocess.DEVNULL).returncode
            lines = log.read_text(encoding="utf-8").splitlines()
            done = int(lines[-1].partition("\t")[0]) if lines else first - 1
            if done >= last - 1:
                break
            with log.open("a", encoding="utf-8") as stream:
                stream.write(f"{done + 1}\t?\tFINDING: the process ended with code {code}\n")
            first = done + 2
        _tell(log, given)


def _tell(log: Path, given: argparse.Namespace) -> None:
    counts: Counter[str] = Counter()
    findings: dict[str, list[int]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        number, target, what = line.split("\t", 2)
        counts[f"{target}: {what.partition(':')[0]}"] += 1
        if what.startswith("FINDING"):
            findings.setdefault(what, []).append(int(number))
    for name, count in sorted(counts.items()):
        print(f"{count:>8,}  {name}")
    for what, numbers in sorted(findings.items(), key=lambda item: -len(item[1])):
        print(f"{len(numbers):>8,}  {what}  (first: {numbers[0]})")
    total = counts
    if given.counts:
        before = json.loads(given.counts.read_text()) if given.counts.exists() else {}
        total = Counter(before) + counts
        given.counts.write_text(json.dumps(dict(sorted(total.items())), indent=1) + "\n")
    if given.report:
        write_section(given.report, "fuzz", table_of(total, COLUMNS, "files damaged"))


def _child(given: argparse.Namespace, shelf: Path, log: Path) -> None:
    """Try inputs until all are done; an alarm ends one that takes too long."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    signal.signal(signal.SIGALRM, _late)
    with tempfile.TemporaryDirectory() as folder, log.open("a", encoding="utf-8") as stream:
        for number in range(given.first, given.first + given.inputs):
            signal.alarm(MOST_SECONDS)
            try:
                target, what = run_input(number, given.seed, shelf, Path(folder))
            except (FindingError, _LateError) as error:
                target, path = one_input(number, given.seed, shelf, Path(folder))
                what = f"FINDING: {target}: {error}"
                given.keep.mkdir(exist_ok=True)
                shutil.copy(path, given.keep / f"{target}-{number}-{path.name}")
            signal.alarm(0)
            stream.write(f"{number}\t{target}\t{what}\n")
            stream.flush()


class _LateError(BaseException):
    """An input took too long."""


def _late(signum: int, frame: object) -> None:
    raise _LateError(f"more than {MOST_SECONDS} s")


if __name__ == "__main__":
    main()
