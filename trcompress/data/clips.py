"""Procedural action clips in the layouts of UCF11 and HMDB51: real video files whose class is a motion."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.data.decode import require_av
from trcompress.data.drawing import draw_clip, group_looks
from trcompress.data.encode import encode_clip
from trcompress.data.motions import MOTIONS
from trcompress.data.video_tree import LAYOUTS, MARKER
from trcompress.errors import OutputFileError, UsageError, nearest
from trcompress.util.bounded_json import read_json
from trcompress.util.folders import atomic_folder
from trcompress.util.progress import Count

_SPLITS = 3
_TEST_SHARE = 0.3


@dataclass(frozen=True)
class ClipSet:
    """What `make_clips` wrote.

    Args:
        root: the tree.
        layout: "ucf11" or "hmdb51".
        classes: motions, one folder each.
        clips: number of files.
        size_bytes: of all of them.
    """

    root: Path
    layout: str
    classes: tuple[str, ...]
    clips: int
    size_bytes: int


def make_clips(
    out: str | Path,
    layout: str = "ucf11",
    *,
    classes: int = 11,
    groups: int = 25,
    clips_per_group: int = 4,
    frames: int = 36,
    size: tuple[int, int] = (320, 240),
    seed: int = 0,
    overwrite: bool = False,
    progress: Count | None = None,
) -> ClipSet:
    """Render clips of moving glyphs, in which nothing but the motion tells the class.

    The clips of one group share a glyph, its colour, place and size, the background and the speed; no other
    group has any of them, so a split by group tests motions on looks that were never trained on.

    Args:
        out: folder to make; it appears when it is complete.
        layout: "ucf11" (class/group/clip.mpg) or "hmdb51" (class/clip.avi and three official split lists).
        classes: the first so many of `MOTIONS` (up to 51).
        groups: looks, the same ones in every class.
        clips_per_group: in each class.
        frames: per clip.
        size: (width, height), even.
        seed: same seed, same clips.
        overwrite: replace a folder that `make_clips` made.
        progress: called with (done, total, what).

    Raises:
        UsageError: an unknown layout, or numbers out of range.
        OutputFileError: the folder is not empty, or cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    out = Path(out)
    settings: dict[str, Any] = {
        "layout": layout,
        "classes": classes,
        "groups": groups,
        "clips_per_group": clips_per_group,
    }
    settings |= {"frames": frames, "size": list(size), "seed": seed}
    _check(layout, settings, size)
    require_av()
    looks, names = group_looks(groups, seed), tuple(MOTIONS)[:classes]
    total, done, written = classes * groups * clips_per_group, 0, 0
    with atomic_folder(out, lambda there: _may_replace(there, overwrite)) as folder:
        for label, name in enumerate(names):
            for group, look in enumerate(looks):
                for clip in range(clips_per_group):
                    rng = np.random.default_rng((seed, 1, label, group, clip))
                    path = folder / _clip_name(layout, name, group, clip)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    encode_clip(path, draw_clip(look, MOTIONS[name], frames, size, rng))
                    done, written = done + 1, written + path.stat().st_size
                    if progress:
                        progress(done, total, "rendering clips")
        if layout == "hmdb51":
            _write_official_lists(folder, names, groups, clips_per_group, seed)
        (folder / MARKER).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return ClipSet(out, layout, names, total, written)


def _clip_name(layout: str, kind: str, group: int, clip: int) -> str:
    """Return a clip's path in the tree, named as the originals are."""
    if layout == "ucf11":
        folder = f"v_{kind}_{group + 1:02d}"
        return f"{kind}/{folder}/{folder}_{clip + 1:02d}.mpg"
    return f"{kind}/look{group + 1:02d}_{kind}_f_nm_np1_fr_goo_{clip}.avi"


def _write_official_lists(folder: Path, names: tuple[str, ...], groups: int, clips: int, seed: int) -> None:
    """Write `<class>_test_split<k>.txt`: whole groups to test on, another set of them in each split."""
    order = np.random.default_rng((seed, 2)).permutation(groups)
    tests = max(1, round(_TEST_SHARE * groups))
    for number in range(_SPLITS):
        test = set(np.roll(order, -number * tests)[:tests].tolist())
        for kind in names:
            lines = [
                f"{Path(_clip_name('hmdb51', kind, group, clip)).name} {2 if group in test else 1} \n"
                for group in range(groups)
                for clip in range(clips)
            ]
            (folder / f"{kind}_test_split{number + 1}.txt").write_text("".join(lines), encoding="utf-8")


def _check(layout: str, settings: dict[str, Any], size: tuple[int, int]) -> None:
    """Check every number; all faults are named at once."""
    if layout not in LAYOUTS:
        raise UsageError(f"layout must be {' or '.join(LAYOUTS)}: got {layout!r}{nearest(layout, tuple(LAYOUTS))}")
    ranges = {"classes": (2, len(MOTIONS)), "groups": (2, 999), "clips_per_group": (1, 99), "frames": (6, 10_000)}
    faults = [
        f"{name} = {settings[name]} (must be {low}..{high:,})"
        for name, (low, high) in ranges.items()
        if not low <= settings[name] <= high
    ]
    if len(size) != 2 or any(side % 2 or not 32 <= side <= 2048 for side in size):
        faults.append(f"size = {'x'.join(map(str, size))} (must be two even numbers of 32..2048)")
    if settings["seed"] < 0:
        faults.append(f"seed = {settings['seed']} (must not be negative)")
    if faults:
        raise UsageError(f"clips cannot be made with {'; '.join(faults)}; change these")


def _may_replace(folder: Path, overwrite: bool) -> None:
    """Allow only a folder that `make_clips` made, and that holds nothing else."""
    if not (overwrite and (folder / MARKER).is_file()):
        remedy = "only folders made by make-clips are replaced" if overwrite else "or allow `overwrite=True`"
        raise OutputFileError(f"clips need a new or empty folder: {folder} is not; choose another ({remedy})")
    own = _names(folder / MARKER)
    others = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    others = [name for name in others if name not in own]
    if others:
        raise OutputFileError(
            f"{folder} holds {len(others):,} files that make-clips did not make ({', '.join(others[:3])}): "
            "move them away, or choose another folder"
        )


def _names(marker: Path) -> set[str]:
    """Return the names of all files that a tree with this marker was made of; none where it is damaged."""
    try:
        made = read_json(marker.read_text(encoding="utf-8"))
        _check(made["layout"], made, tuple(made["size"]))
        kinds = tuple(MOTIONS)[: made["classes"]]
        clips = {
            Path(_clip_name(made["layout"], kind, group, clip)).as_posix()
            for kind in kinds
            for group in range(made["groups"])
            for clip in range(made["clips_per_group"])
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, UsageError):
        return set()
    lists = {f"{kind}_test_split{number + 1}.txt" for kind in kinds for number in range(_SPLITS)}
    return clips | {MARKER} | (lists if made["layout"] == "hmdb51" else set())
