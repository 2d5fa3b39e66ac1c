"""What is done with a damaged file, and what must come of it: an exit code and plain lines, never a traceback."""

from __future__ import annotations

import random
import re
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path

from command import Result, run

from fuzz.corpus import SHAPE, TUNE

CODES = {0: "read", 2: "refused", 3: "refused", 4: "refused as unsafe", 5: "refused"}
MOST_CHARACTERS = {"stdout": 400_000, "stderr": 20_000}  # a page of a report is long, a message is not
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class FindingError(Exception):
    """Something that must not be; the text says what and where."""


def verbs(target: str, path: Path, shelf: Path, rng: random.Random, out: Path) -> list[list[object]]:
    """Return the commands that a target may be given, and pick among its forms."""
    ring = shelf / "artifact" / "ring.safetensors"
    dense = shelf / "checkpoint" / "plain.safetensors"
    human = rng.choice(([], ["--format", "json"]))
    small = ("--target-size", "2KB", "--passes", "fold,rounding", "-o", out, "--overwrite")
    return {
        "checkpoint": [
            ["inspect", path, *human],
            ["inspect", path, "--skip-objects", "--kind", "gru"],
            ["decompose", path, *SHAPE, "--init", "tr-svd", "-o", out, *human],
            ["report", ring, "--baseline", path, *human],
            ["evaluate", path, "--data", shelf / "array" / "whole.npz"],
            ["compress", path, "--calibrate", shelf / "array" / "whole.npz", *small, *human],
            ["plan", path, "--target-ratio", 2, "--effort", "low", *human],
        ],
        "index": [["inspect", path, *human], ["decompose", path, *SHAPE, "--init", "tr-svd", "-o", out]],
        "artifact": [
            ["report", path, *human],
            ["report", path, "--format", rng.choice(("html", "markdown", "csv"))],
            ["report", path, "--baseline", dense],
            ["expand", path, "-o", out, "--overwrite", *human],
            ["inspect", path],
            ["evaluate", path, "--data", shelf / "array" / "whole.npz", *human],
            ["export", path, "--onnx", out.with_suffix(".onnx"), "--overwrite", *human],
        ],
        "recipe": [
            ["recipe", "validate", path],
            ["recipe", "show", path],
            ["reproduce", path, "--dry-run", *human],
        ],
        "array": [["evaluate", dense, "--data", path, *human], ["compress", dense, "--calibrate", path, *small]],
    }[target]


def attempt(target: str, path: Path, shelf: Path, rng: random.Random, scratch: Path) -> str:
    """Give one damaged file to one command; return how it went.

    Raises:
        FindingError: a traceback, an unknown exit code, control characters, or endless words.
    """
    try:
        if target in LIBRARY:
            return LIBRARY[target](path, shelf, scratch)
        out = scratch / "out.safetensors"
        out.unlink(missing_ok=True)
        words = rng.choice(verbs(target, path, shelf, rng, out))
        done = run(*words)
        _check(words, done)
        if words[0] in ("decompose", "compress") and done.code == 0:
            _check_written(out)
        return CODES[done.code]
    except FindingError:
        raise
    except Exception as error:
        raise FindingError(place_of(error)) from error


def place_of(error: BaseException) -> str:
    """Return `file:line Type` of the innermost frame of ours, which names a fault apart from its values."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [one for one in frames if "/trcompress/" in one.filename or "/cli/" in one.filename] or frames
    return f"{'/'.join(Path(own[-1].filename).parts[-2:])}:{own[-1].lineno} {type(error).__name__}"


def _check(words: list[object], done: Result) -> None:
    verb = str(words[0])
    if done.code not in CODES:
        raise FindingError(f"{verb}: exit code {done.code}")
    for name, text in (("stdout", done.stdout), ("stderr", done.stderr)):
        if found := _CONTROL.search(text):
            raise FindingError(f"{verb}: {found[0]!r} on {name}")
        if len(text) > MOST_CHARACTERS[name]:
            raise FindingError(f"{verb}: {len(text):,} characters on {name}")
    if done.code and not done.stderr.startswith("error: ") and "Usage:" not in done.stderr:
        last = done.stderr.strip().splitlines()[-1:] or [""]
        if "error: " not in done.stderr:
            raise FindingError(f"{verb}: exit code {done.code} without a word: {last[0][:80]}")


def _check_written(out: Path) -> None:
    """What a verb wrote must be read back, and reported."""
    done = run("report", out)
    if done.code:
        raise FindingError(f"a verb wrote what report cannot read: {done.stderr.strip()[-200:]}")


def _known(call: Callable[[], object]) -> str:
    """Run a call of the library; a fault of the file is fine."""
    from trcompress.errors import TrcompressError, UnsafeFileError

    try:
        call()
    except UnsafeFileError:
        return CODES[4]
    except TrcompressError:
        return CODES[3]
    return CODES[0]


def _video(path: Path, shelf: Path, scratch: Path) -> str:
    from trcompress.data.decode import DecodeSettings, UnreadableClipError, decode_clip

    settings = DecodeSettings(4, 32, 32, 1000, 10**6, keep_cut=False)
    try:
        decode_clip(path, settings)
    except UnreadableClipError:
        return CODES[3]
    return CODES[0]


def _list(path: Path, shelf: Path, scratch: Path) -> str:
    from trcompress.data.video_tree import find_clips, official_split

    folder = scratch / "lists"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for one in (shelf / "tree" / "hmdb51").glob("*_test_split1.txt"):
        shutil.copy(one, folder / one.name)
    shutil.copy(path, folder / path.name)
    return _known(lambda: official_split(find_clips(shelf / "tree" / "hmdb51"), 1, folder))


def _state(path: Path, shelf: Path, scratch: Path) -> str:
    from trcompress.training.finetune import finetune
    from trcompress.training.settings import FinetuneSettings

    out = scratch / "tuned.safetensors"
    folder = scratch / "tuned.run"
    folder.mkdir(exist_ok=True)
    for left in (out, scratch / "tuned.metrics.json"):
        left.unlink(missing_ok=True)
    shutil.copy(path, folder / "state.safetensors")
    ring, data = shelf / "artifact" / "ring.safetensors", shelf / "array" / "parts.npz"
    return _known(lambda: finetune(ring, data, out, resume=True, settings=FinetuneSettings(**TUNE)))


def _result(path: Path, shelf: Path, scratch: Path) -> str:
    from trcompress.reproduce.result import read_result
    from trcompress.reproduce.results_page import results_page

    return _known(lambda: results_page([(path, read_result(path))], path.parent))


LIBRARY = {"video": _video, "list": _list, "state": _state, "result": _result}
