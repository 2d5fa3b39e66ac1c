"""Video trees as data sets: each clip a few resized frames, flattened; decoded once, then read from a cache.

A frame of 160 x 120 pixels becomes 57,600 values in [0, 1]. `pixel_order="rows"` flattens (row, column,
colour), to be matched by modes like 5x4x6 x 8x5x4 x 3. `"columns"` flattens (column, row, colour): only then
do the paper's modes 4x2x5x8x6x5x3x2 follow the picture: 4x2x5 = 40 bands of 4 columns; 8 = their halves of 60
pixels; 6 and 5 = parts of 10 and of 2 pixels; 3x2 = those two pixels' colours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trcompress.data.dataset import DataSet, Split, row_generator
from trcompress.data.frame_cache import Entry
from trcompress.data.options import VideoOptions, read_options
from trcompress.data.sampling import pick_frames
from trcompress.data.splits import UNUSED, absent_classes, divide_rows
from trcompress.data.video_cache import FrameStore, open_store
from trcompress.data.video_tree import ClipFile, VideoTree, find_clips, official_split
from trcompress.errors import InputFileError, UsageError
from trcompress.util.progress import Count


@dataclass(frozen=True)
class VideoSource:
    """Cached clips as sequences of flattened frames; see `Source`.

    Args:
        clips: one per row.
        entries: their cached frames.
        store: where damaged entries are made again.
        steps: frames per clip.
        columns_first: flatten (column, row, colour) instead of (row, column, colour).
    """

    clips: tuple[ClipFile, ...]
    entries: tuple[Entry, ...]
    store: FrameStore
    steps: int
    columns_first: bool
    _checked: dict[int, Entry] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """(frames per clip, values per frame)."""
        return self.steps, self.store.settings.width * self.store.settings.height * 3

    def fetch(self, rows: np.ndarray, draw: int | None) -> tuple[np.ndarray, None]:
        """Read clips as (B, T, I) float32 in [0, 1]; random frames, in order, where `draw` is given."""
        values = np.empty((len(rows), *self.shape), dtype=np.float32)
        for place, row in enumerate(rows.tolist()):
            pixels = self.pixels(row, None if draw is None else row_generator(draw, row))
            if self.columns_first:
                pixels = pixels.transpose(0, 2, 1, 3)
            np.divide(pixels.reshape(self.shape), np.float32(255), out=values[place])
        return values, None

    def pixels(self, row: int, rng: np.random.Generator | None) -> np.ndarray:
        """Return the frames of one clip, (T, height, width, 3) uint8."""
        if row not in self._checked:
            self._checked[row] = self.store.repaired(self.clips[row], self.entries[row])
        entry = self._checked[row]
        picks = pick_frames(entry.shape[0], self.steps, rng)
        try:
            return np.asarray(entry.frames()[picks])
        except OSError:  # the cache was emptied meanwhile
            return np.asarray(self.store.repaired(self.clips[row], entry).frames()[picks])


def load_video(spec: str, values: dict[str, Any], *, progress: Count | None = None, **_: Any) -> DataSet:
    """Open a video tree, decoding whatever the cache does not have.

    Args:
        spec: the folder.
        values: fields of `VideoOptions`.
        progress: called with (done, total, what) while clips are decoded.

    Raises:
        InputFileError: no clips, or more unreadable ones than `max_bad_clips`; all are named.
        UsageError: options that are unknown or do not fit the tree.
        OutputFileError: the cache cannot be written.
        MissingExtraError: PyAV is not installed.
    """
    options = read_options(VideoOptions, values, "video")
    tree = find_clips(spec, options.layout)
    codes, faults, notes = _official(tree, options)
    kept = [row for row in range(len(tree.clips)) if codes is None or codes[row] != UNUSED]
    store = open_store(options, len(kept))
    entries, unreadable = store.prepare([tree.clips[row] for row in kept], progress)
    faults |= unreadable
    check_bad_clips(tree, faults, options.max_bad_clips)
    kept = [row for row in kept if tree.clips[row].name in entries]
    clips = tuple(tree.clips[row] for row in kept)
    source = VideoSource(
        clips,
        tuple(entries[clip.name] for clip in clips),
        store,
        options.frames,
        options.pixel_order == "columns",
    )
    named = None if codes is None else (codes[kept], f"official split {options.split_number}")
    return _data_set(tree, source, named, options, notes + bad_clip_notes(faults, entries))


def _official(tree: VideoTree, options: VideoOptions) -> tuple[np.ndarray | None, dict[str, str], tuple[str, ...]]:
    """Return the official codes of the clips if they are to be used, listed clips that are missing, and notes."""
    if tree.layout != "hmdb51" or options.test_groups or options.split not in ("auto", "official"):
        return None, {}, ()
    found = official_split(tree, options.split_number, options.split_dir)
    if found is None:
        raise UsageError(
            f"HMDB51's official lists (*_test_split{options.split_number}.txt) are not in or beside {tree.root}: "
            "name their folder with split_dir, or ask for split=group (by source video)"
        )
    codes, missing = found
    unused = int((codes == UNUSED).sum())
    note = (f"{unused} clips are in neither part of official split {options.split_number}",) if unused else ()
    return codes, missing_faults(missing), note


def _data_set(
    tree: VideoTree,
    source: VideoSource,
    official: tuple[np.ndarray, str] | None,
    options: VideoOptions,
    notes: tuple[str, ...],
) -> DataSet:
    labels = np.array([clip.label for clip in source.clips], dtype=np.int64)
    groups = np.array([clip.group for clip in source.clips])
    division = divide_rows(labels, groups, options, official)

    def part(name: str, rows: np.ndarray) -> Split:
        return Split(name, labels[rows], source, rows, groups[rows])

    return DataSet(
        name=tree.name,
        classes=tree.classes,
        train=part("train", division.train),
        validation=part("validation", division.validation) if len(division.validation) else None,
        test=part("test", division.test) if len(division.test) else None,
        input_size=source.shape[1],
        steps=options.frames,
        split_note=division.note,
        notes=notes + division.notes + absent_classes(tree.classes, labels[division.train]),
    )


def check_bad_clips(tree: VideoTree, faults: dict[str, str], most: int) -> None:
    """Refuse a tree with more than `most` unreadable clips, or with no readable one.

    Raises:
        InputFileError: it names up to 20 of them with what is wrong.
    """
    if len(faults) <= most and len(faults) < len(tree.clips):
        return
    listed = [f"{name} {fault}" for name, fault in sorted(faults.items())]
    more = f"; and {len(listed) - 20} more" if len(listed) > 20 else ""
    raise InputFileError(
        f"{len(faults)} of {len(tree.clips)} clips of {tree.root} are unusable, and max_bad_clips is {most}: "
        f"{'; '.join(listed[:20])}{more}; restore them, or raise max_bad_clips to leave them out"
    )


@dataclass(frozen=True)
class ClipFacts:
    """What was wrong with a clip that was kept."""

    damaged: int
    cut: bool


def missing_faults(names: list[str]) -> dict[str, str]:
    """Count clips of the official lists that the tree lacks among the unreadable ones."""
    return dict.fromkeys(names, "is in the official lists but not in the tree")


def bad_clip_notes(faults: dict[str, str], facts: Mapping[str, ClipFacts | Entry]) -> tuple[str, ...]:
    """Name and count what was left out: whole clips by name, damaged frames by number."""
    notes = []
    if faults:
        listed = "; ".join(f"{name} {fault}" for name, fault in sorted(faults.items()))
        notes.append(f"{len(faults)} clips were left out: {listed}")
    damaged = Counter({name: clip.damaged for name, clip in facts.items() if clip.damaged})
    if damaged:
        worst = ", ".join(f"{name} ({count})" for name, count in damaged.most_common(10))
        notes.append(f"{damaged.total()} damaged frames of {len(damaged)} clips were left out: {worst}")
    cut = sorted(name for name, clip in facts.items() if clip.cut)
    if cut:
        notes.append(f"{len(cut)} clips are cut short and were kept: {', '.join(cut)}")
    return tuple(notes)
