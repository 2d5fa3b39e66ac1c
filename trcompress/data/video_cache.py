"""The clips of a tree through the frame cache: decode what is missing, name what cannot be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from trcompress.data.decode import DecodeSettings, require_av
from trcompress.data.decode_pool import DecodeJob, decode_all
from trcompress.data.frame_cache import Entry, default_cache_dir, entry_path, open_cache, read_entry
from trcompress.data.options import VideoOptions
from trcompress.data.video_tree import ClipFile
from trcompress.errors import InputFileError, OutputFileError, UsageError
from trcompress.util.progress import Count

_MOST_CLIP_BYTES = 2**30


@dataclass(frozen=True)
class FrameStore:
    """Cached frames of the clips of a tree.

    Args:
        folder: the cache folder.
        settings: how clips are decoded.
        workers: decoding processes, 0 for none.
        timeout_s: give up on a clip after this time.
    """

    folder: Path
    settings: DecodeSettings
    workers: int
    timeout_s: float

    def prepare(
        self, clips: Sequence[ClipFile], progress: Count | None = None
    ) -> tuple[dict[str, Entry], dict[str, str]]:
        """Decode the clips that are not cached.

        Returns:
            entries by clip name, and what is wrong with each clip that has none.

        Raises:
            OutputFileError: the cache folder is not writable or has no room.
        """
        targets, faults = self._targets(clips)
        jobs = {
            DecodeJob(clip.path, targets[clip.name]): clip.name
            for clip in clips
            if clip.name in targets and read_entry(targets[clip.name], self.settings) is None
        }
        if jobs:
            require_av()
            self._check_room(len(jobs))
        done = len(clips) - len(jobs)
        with closing(decode_all(list(jobs), self.settings, self.workers, self.timeout_s)) as results:
            for job, fault in results:
                done += 1
                if fault:
                    faults[jobs[job]] = fault
                if progress:
                    progress(done, len(clips), "decoding clips")
        entries = {name: read_entry(path, self.settings) for name, path in targets.items() if name not in faults}
        return {name: entry for name, entry in entries.items() if entry is not None}, faults

    def repaired(self, clip: ClipFile, entry: Entry) -> Entry:
        """Return the clip's entry with sound bytes, decoding it again if they are not.

        Raises:
            InputFileError: the clip can no longer be decoded.
        """
        if entry.is_sound():
            return entry
        entry.path.unlink(missing_ok=True)
        entries, faults = self.prepare([clip])
        if clip.name not in entries:
            raise InputFileError(
                f"the cached frames of {clip.path} are damaged and it cannot be decoded again: it "
                f"{faults.get(clip.name, 'has changed')}; restore the file or leave it out"
            )
        return entries[clip.name]

    def _targets(self, clips: Sequence[ClipFile]) -> tuple[dict[str, Path], dict[str, str]]:
        targets, faults = {}, {}
        for clip in clips:
            try:
                targets[clip.name] = entry_path(self.folder, clip.path, clip.name, self.settings)
            except OSError as error:
                faults[clip.name] = f"cannot be read: {error.strerror}"
        return targets, faults

    def _check_room(self, clips: int) -> None:
        need, free = clips * self.settings.clip_bytes, shutil.disk_usage(self.folder).free
        if need > free:
            raise OutputFileError(
                f"decoded frames of {clips:,} clips may take {need:,} bytes: {self.folder} has {free:,} free; "
                "lower candidates, or name another cache_dir"
            )


def open_store(options: VideoOptions, clips: int) -> FrameStore:
    """Check the sizes asked for and open the cache folder.

    Raises:
        UsageError: one clip or the whole tree would need more than is allowed.
    """
    candidates = options.candidates or max(24, 2 * options.frames)
    width, height = options.size
    settings = DecodeSettings(candidates, width, height, options.max_frames, options.max_pixels, options.keep_cut)
    if settings.clip_bytes > _MOST_CLIP_BYTES:
        raise UsageError(
            f"the frames of one clip must fit in {_MOST_CLIP_BYTES:,} bytes: {candidates} of {width}x{height} take "
            f"{settings.clip_bytes:,}; lower candidates or size"
        )
    if clips * settings.clip_bytes > options.max_cache_bytes:
        raise UsageError(
            f"decoded frames must fit in max_cache_bytes = {options.max_cache_bytes:,}: {clips:,} clips with "
            f"{candidates} frames of {width}x{height} may take {clips * settings.clip_bytes:,}; lower candidates "
            "or raise max_cache_bytes"
        )
    folder = open_cache((options.cache_dir or default_cache_dir()) / "frames")
    workers = min(8, os.cpu_count() or 1) if options.workers is None else options.workers
    return FrameStore(folder, settings, workers, options.clip_timeout_s)
