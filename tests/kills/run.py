"""Kill commands at random moments, and count what is lost.

    python tests/kills/run.py --kills 500 --report RELIABILITY.md

Every command runs in a fork of a process that has imported everything, so that kills strike its work. After each
one the inputs must be what they were, the output whole or not there, and the same command, run again, must succeed
with the result of a run that nobody killed, bit by bit. A campaign that was cut off goes on when the same command
is run again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from campaign_log import CampaignLog, forked, in_forks, left, stop_without
from command import run
from reliability import table_of, write_section

from kills.scenarios import Scenario, scenarios
from trcompress.cli.main import main as trcompress

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
LEFT = "left-over files with their own names"
COLUMNS = (*(f"ended by {one.name}" for one in SIGNALS), "done before the signal", LEFT)


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--only", help="a scenario")
    parser.add_argument("--folder", type=Path, default=Path("kills-run"), help="what is done, to go on from")
    parser.add_argument("--fresh", action="store_true", help="begin anew where the folder holds a campaign")
    parser.add_argument("--report", type=Path, help="file whose section `kills` gets the counts")
    given = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what is in the background without it
    facts = {"kills": given.kills, "seed": given.seed, "only": given.only}
    log = CampaignLog(given.folder.absolute(), facts, given.fresh)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "inputs"
        found = {k: v for k, v in scenarios(inputs).items() if given.only in (None, k)}
        whole = {name: _whole_run(one, inputs, Path(folder)) for name, one in found.items()}
        work = partial(_kill_many, given, log, found, whole, inputs, os.getpid())
        in_forks(work, given.workers)
    faults = _tell(log, given)
    sys.exit(1 if faults else 0)


def _kill_many(
    given: argparse.Namespace,
    log: CampaignLog,
    found: dict[str, Scenario],
    whole: dict[str, tuple[str, float]],
    inputs: Path,
    parent: int,
    worker: int,
) -> None:
    """Strike all kills of one worker that are not done."""
    folder = inputs.parent / f"worker{worker}"
    folder.mkdir()
    with log.open(worker) as stream:
        for number in left(given.kills, log.done(), worker, given.workers):
            stop_without(parent)
            name = list(found)[number % len(found)]
            rng = random.Random(f"{given.seed}/{number}")
            said = _kill_once(found[name], whole[name], inputs, folder, rng)
            stream.write(f"{number}\t{json.dumps([name, said])}\n")


def _tell(log: CampaignLog, given: argparse.Namespace) -> list[str]:
    """Print the counts, write the report's section; returns the faults."""
    counts, faults = Counter[str](), []
    for number, line in sorted(log.done().items()):
        name, said = json.loads(line)
        counts.update(f"{name}: {one}" for one in said if not one.startswith("FAULT"))
        faults += [f"{name}, kill {number}: {one}" for one in said if one.startswith("FAULT")]
    for name, count in sorted(counts.items()):
        print(f"{count:>6,}  {name}")
    print(f"{len(faults):>6,}  faults", *faults, sep="\n        ")
    if given.report:
        words = f"{len(faults)} faults: bytes lost, changed inputs, partial outputs, unnamed left-over files, "
        words += "signals that did not end the run."
        tree = f"Seed {given.seed}, one tree: the SHA-256 of its Python files begins with {log.sources}."
        write_section(given.report, "kills", [*table_of(counts, COLUMNS, "command"), "", words, "", tree])
    return faults


def _whole_run(scenario: Scenario, inputs: Path, folder: Path) -> tuple[str, float]:
    """Run a command here and in a fork; returns the fingerprint of its result and the seconds of the fork."""
    place = _fresh(inputs, folder)
    done = run(*scenario.words, cwd=place)  # imports all that the forks need
    if done.code:
        raise SystemExit(f"{scenario.words} failed without a kill: {done.code}\n{done.stderr}")
    mark, place = scenario.fingerprint(place / scenario.output), _fresh(inputs, folder)
    began = time.perf_counter()
    code, said = _wait(_start(scenario.words, place))
    seconds = time.perf_counter() - began
    if code or scenario.fingerprint(place / scenario.output) != mark:
        raise SystemExit(f"{scenario.words} gives another result each time: {code}\n{said}")
    return mark, seconds


def _kill_once(
    scenario: Scenario, whole: tuple[str, float], inputs: Path, folder: Path, rng: random.Random
) -> list[str]:
    """Kill a command once, look at what is there, run it again; returns what was seen."""
    mark, seconds = whole
    place = _fresh(inputs, folder)
    before = None
    if scenario.words == scenario.again and rng.random() < 0.5:  # over an old result
        _wait(_start(scenario.words, place))
        before = scenario.fingerprint(place / scenario.output)
    number = rng.choice(SIGNALS)
    child = _start(scenario.words, place)
    time.sleep(rng.random() * 1.1 * seconds)
    os.kill(child[0], number)
    code, said = _wait(child)
    seen = [f"{'done before the signal' if code == 0 else 'ended by ' + signal.Signals(number).name}"]
    seen += _look(scenario, place, inputs, mark, before, code, said)
    code, said = _wait(_start(scenario.again, place))
    if code and "the output exists" in said and "FAULT" not in "".join(seen):
        code = 0  # it had finished when the signal came; the result is looked at below
    if code:
        return [*seen, f"FAULT: run again, it exits with {code}: {said[-200:]}"]
    if scenario.fingerprint(place / scenario.output) != mark:
        seen.append("FAULT: run again, it gives another result")
    left = _leftovers(scenario, place)
    return [*seen, *([f"FAULT: {left} are left after running again"] if left else [])]


def _look(
    scenario: Scenario, place: Path, inputs: Path, mark: str, before: str | None, code: int, said: str
) -> list[str]:
    """Inspect what a kill left behind."""
    seen, out = [], place / scenario.output
    if not _same(place / "in", inputs):
        seen.append("FAULT: an input was changed")
    if code not in (0, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT) or "Traceback" in said:
        seen.append(f"FAULT: exit code {code}: {said[-300:]}")
    if before is not None and not out.exists() and not list(place.glob(".*.trcompress.old")):
        seen.append("FAULT: the old output is gone")
    if out.exists() and not out.is_dir():
        try:
            now = scenario.fingerprint(out)
        except Exception as error:
            return [*seen, f"FAULT: the output is no whole file: {error}"]
        seen += [] if now in (mark, before) else ["FAULT: the output is neither the old one nor the new one"]
    left = _leftovers(scenario, place)
    unknown = [name for name in left if not any(fnmatch.fnmatch(name, one) for one in scenario.leaves)]
    if unknown:
        seen.append(f"FAULT: {unknown} were left")
    return [*seen, *([LEFT] if left else [])]


def _same(one: Path, other: Path) -> bool:
    names = [sorted(path.relative_to(root) for path in root.rglob("*")) for root in (one, other)]
    files = [name for name in names[0] if (one / name).is_file()]
    return names[0] == names[1] and all((one / n).read_bytes() == (other / n).read_bytes() for n in files)


def _leftovers(scenario: Scenario, place: Path) -> list[str]:
    """Names in the work folder and below, other than inputs, the output, logs and caches."""
    known = ("in", scenario.output, *scenario.keeps, "said")
    top = [path.name for path in place.iterdir() if path.name not in known]
    return top + [path.name for path in place.rglob(".*.trcompress.*") if path.parent != place]


def _fresh(inputs: Path, folder: Path) -> Path:
    place = folder / "work"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    shutil.copytree(inputs, place / "in")
    return place


def _start(words: tuple[object, ...], place: Path) -> tuple[int, Path]:
    """Run a command in a fork; its words go to a file."""
    log = place / "said"

    def command() -> None:
        os.chdir(place)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.argv = ["trcompress", *map(str, words)]
        trcompress()

    # before its own `try`, the fork would answer a signal with the campaign's code
    return forked(command, masked=SIGNALS[1:]), log


def _wait(child: tuple[int, Path]) -> tuple[int, str]:
    _, status = os.waitpid(child[0], 0)
    said = child[1].read_text(errors="replace") if child[1].exists() else ""
    return os.waitstatus_to_exitcode(status), said


if __name__ == "__main__":
    main()
