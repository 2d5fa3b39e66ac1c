"""Video trees to array data sets of CNN features: the paper's CNN + TR-LSTM setting."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.data.array_writer import SUFFIXES, Rows, write_arrays
from trcompress.data.backbones import Backbone
from trcompress.data.frame_cache import entry_path, open_cache
from trcompress.data.open_backbone import open_backbone
from trcompress.data.options import SplitOptions, VideoOptions, read_options
from trcompress.data.sampling import pick_frames
from trcompress.data.video import ClipFacts, bad_clip_notes, check_bad_clips, missing_faults
from trcompress.data.video_cache import FrameStore, open_store
from trcompress.data.video_tree import ClipFile, VideoTree, find_clips, official_split
from trcompress.errors import InputFileError, UsageError
from trcompress.util.claims import clear_claim
from trcompress.util.files import atomic_path, check_output
from trcompress.util.progress import Count

_CHUNK = 64


@dataclass(frozen=True)
class FeatureSet:
    """What `extract` wrote.

    Args:
        path: the array file.
        clips: rows in it.
        frames: steps per row.
        features: values per step.
        notes: which clips were left out, and why.
    """

    path: Path
    clips: int
    frames: int
    features: int
    notes: tuple[str, ...]


def extract(
    tree: str | Path,
    backbone: str | Path,
    out: str | Path,
    *,
    weights: str | Path | None = None,
    normalize: str = "imagenet",
    overwrite: bool = False,
    progress: Count | None = None,
    **options: Any,
) -> FeatureSet:
    """Run a CNN over evenly spaced frames of every clip and write the features as an array data set.

    The file holds x (clips, frames, features) float32, y, group, the names of classes and clips, and HMDB51's
    official lists as split_1..3; load it with `frames=6` to draw 6 of the stored frames at random, as from
    video. A run that was interrupted goes on where it stopped.

    Args:
        tree: a video tree.
        backbone: a CNN exported to ONNX, or `torchvision:NAME`.
        out: .npz or .safetensors file.
        weights: state dict for torchvision's networks; nothing is downloaded.
        normalize: how the network sees pixels: imagenet, unit (0..1), signed (-1..1) or raw (0..255).
        overwrite: replace `out`.
        progress: called with (done, total, what).
        **options: fields of `VideoOptions` other than those about splits, which are chosen when the features
            are used; `frames` are stored per clip (default 24), `size` defaults to the network's own.

    Raises:
        UsageError, InputFileError, OutputFileError, MissingExtraError: as in `load_data`.
    """
    chosen = set(options) & {*SplitOptions.model_fields, "candidates", "split_number", "pixel_order"}
    if chosen:
        raise UsageError(
            f"features are stored for all clips of all splits: give {', '.join(sorted(chosen))} when using them"
        )
    if Path(out).suffix.lower() not in SUFFIXES:
        raise UsageError(f"features are written as {' or '.join(SUFFIXES)}: got {out}; rename it")
    out = check_output(out, overwrite=overwrite, keep=[tree, backbone, weights, options.get("split_dir")])
    network = open_backbone(backbone, weights, normalize)
    settings = _settings(network, options)
    found = find_clips(tree, settings.layout)
    store = open_store(settings, min(_CHUNK, len(found.clips)))
    run = _Run(network, replace(store, folder=open_cache(store.folder.parent / "extract")), settings.frames)
    faults: dict[str, str] = {}
    codes = _official_codes(found, settings, faults)
    facts: dict[str, ClipFacts] = {}
    for start in range(0, len(found.clips), _CHUNK):
        facts |= run.compute(found.clips[start : start + _CHUNK], faults)
        check_bad_clips(found, faults, settings.max_bad_clips)
        if progress:
            progress(min(start + _CHUNK, len(found.clips)), len(found.clips), "extracting features")
    notes = (f"features of {found.name} by {network.name}, {normalize} pixels", *bad_clip_notes(faults, facts))
    rows = [row for row, clip in enumerate(found.clips) if clip.name in facts]
    width = _write(out, found, rows, run, {name: code[rows] for name, code in codes.items()}, notes)
    for row in rows:
        run.file(found.clips[row]).unlink(missing_ok=True)
    return FeatureSet(Path(out), len(rows), settings.frames, width, notes)


@dataclass(frozen=True)
class _Run:
    """Features of single clips, each kept in a file of its own until all are there."""

    network: Backbone
    store: FrameStore
    frames: int

    def file(self, clip: ClipFile) -> Path:
        """Name the file that keeps the features of a clip: by the clip, how it is decoded, and the network."""
        frames = entry_path(self.store.folder, clip.path, clip.name, self.store.settings)
        return frames.with_name(f"{frames.stem}-{self.network.identity[:16]}.npz")

    def load(self, clip: ClipFile) -> tuple[np.ndarray, ClipFacts] | None:
        """Read a clip's features; None if they are not there or damaged."""
        try:
            with np.load(self.file(clip), allow_pickle=False) as kept:
                damaged, cut = kept["facts"].tolist()
                return kept["x"], ClipFacts(damaged, bool(cut))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None

    def compute(self, clips: Sequence[ClipFile], faults: dict[str, str]) -> dict[str, ClipFacts]:
        """Make the features that are missing; name the clips that cannot be decoded in `faults`."""
        kept = {clip.name: self.load(clip) for clip in clips if clip.path.is_file()}
        missing = [clip for clip in clips if kept.get(clip.name) is None]
        entries, unreadable = self.store.prepare(missing)
        faults.update(unreadable)
        facts = {name: loaded[1] for name, loaded in kept.items() if loaded is not None}
        for clip in clips:
            if clip.name in facts:
                clear_claim(self.file(clip))
        for clip in missing:
            if clip.name in entries:
                entry = entries[clip.name]
                facts[clip.name] = ClipFacts(entry.damaged, entry.cut)
                picks = pick_frames(entry.shape[0], self.frames, None)
                self._keep(clip, self.network.features(entry.frames()[picks]), facts[clip.name])
                entry.path.unlink()
        return facts

    def _keep(self, clip: ClipFile, features: np.ndarray, facts: ClipFacts) -> None:
        with atomic_path(self.file(clip)) as part, part.open("wb") as stream:
            np.savez(stream, x=features, facts=np.array([facts.damaged, facts.cut], dtype=np.int64))


def _settings(network: Backbone, options: dict[str, Any]) -> VideoOptions:
    """Return the options with all that is stored set; the size is the network's."""
    asked = options.get("size")
    values = {"frames": 24, "size": network.size} | options
    if values["size"] is None:
        raise UsageError(f"{network.name} takes frames of any size: give size WIDTHxHEIGHT, such as 224x224")
    settings = read_options(VideoOptions, values, "video")
    if asked is not None and network.size not in (None, settings.size):
        raise UsageError(f"{network.name} takes frames of {network.size}: got size {settings.size}; leave it out")
    return settings.model_copy(update={"candidates": settings.frames})


def _official_codes(tree: VideoTree, settings: VideoOptions, faults: dict[str, str]) -> dict[str, np.ndarray]:
    """Return every official split of an HMDB51 tree that has lists."""
    codes = {}
    for number in (1, 2, 3) if tree.layout == "hmdb51" else ():
        found = official_split(tree, number, settings.split_dir)
        if found is not None:
            codes[f"split_{number}"] = found[0]
            faults.update(missing_faults(found[1]))
    return codes


def _write(
    out: Path, tree: VideoTree, rows: list[int], run: _Run, codes: dict[str, np.ndarray], notes: tuple[str, ...]
) -> int:
    """Write the kept features of all rows, one row in memory at a time; return the values per step."""
    clips = [tree.clips[row] for row in rows]
    width = _kept(run, clips[0]).shape[1]
    labels = np.array([clip.label for clip in clips], dtype=np.int64)
    arrays = {
        "x": Rows((len(clips), run.frames, width), "float32", (_kept(run, clip) for clip in clips)),
        "y": Rows(labels.shape, "int64", [labels]),
    }
    arrays |= {name: Rows(code.shape, "int64", [code]) for name, code in codes.items()}
    texts = {
        "classes": list(tree.classes),
        "group": [clip.group for clip in clips],
        "clips": [clip.name for clip in clips],
        "notes": list(notes),
    }
    write_arrays(out, arrays, texts)
    return width


def _kept(run: _Run, clip: ClipFile) -> np.ndarray:
    loaded = run.load(clip)
    if loaded is None:
        raise InputFileError(f"the features of {clip.name} were changed or removed during the run; run again")
    return loaded[0]
