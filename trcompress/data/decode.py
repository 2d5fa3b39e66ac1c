"""One video file to a few evenly spaced frames, by decoding from the first frame on and never seeking.

Seeks in MPEG program streams land on wrong frames, and frame counts in headers are missing or wrong. So the
frames are counted by decoding, then decoded again up to the last one wanted. Files are taken as hostile: only
plain containers are opened (no playlists, no network), and frame size and number are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trcompress.data.container_tail import ends_early
from trcompress.data.sampling import evenly_spaced
from trcompress.errors import InputFileError, MissingExtraError

SUFFIXES = (".mpg", ".mpeg", ".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm")
_CONTAINERS = "avi,mpeg,mpegts,mpegvideo,mov,matroska"
_MOST_DAMAGED = 0.1


class UnreadableClipError(InputFileError):
    """A clip that cannot be used: not a video, cut short, too damaged or too large."""


@dataclass(frozen=True)
class DecodeSettings:
    """What is taken from each clip, and what is refused.

    Args:
        candidates: evenly spaced frames to keep; clips with fewer keep all of theirs.
        width: of the kept frames.
        height: of the kept frames.
        max_frames: refuse clips with more.
        max_pixels: refuse frames with more.
        keep_cut: keep clips that lack their end.
    """

    candidates: int
    width: int
    height: int
    max_frames: int
    max_pixels: int
    keep_cut: bool = False

    @property
    def clip_bytes(self) -> int:
        """The most bytes that one clip's frames take."""
        return self.candidates * self.height * self.width * 3


@dataclass(frozen=True)
class DecodedClip:
    """Frames of one clip.

    Args:
        frames: (K, height, width, 3) uint8 RGB, in order of time.
        total: whole frames in the clip.
        damaged: frames that did not decode whole; they are never among `frames`.
        cut: the clip lacks its end.
    """

    frames: np.ndarray
    total: int
    damaged: int
    cut: bool


def require_av() -> Any:
    """Import PyAV.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("video needs PyAV: run `pip install trcompress[video]`") from error
    return av


def decode_clip(path: str | Path, settings: DecodeSettings) -> DecodedClip:
    """Decode a clip's evenly spaced frames.

    Raises:
        UnreadableClipError: not a video, cut short, more than a tenth damaged, or over the limits.
        MissingExtraError: PyAV is not installed.
    """
    av = require_av()
    try:
        seen = _count(path, settings)
        chosen = evenly_spaced(len(seen.whole), min(settings.candidates, len(seen.whole)))
        frames = _collect(path, [seen.whole[k] for k in chosen], settings)
    except UnreadableClipError:
        raise
    except (av.error.FFmpegError, ValueError, OSError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableClipError(f"cannot be decoded: {reason}") from error
    return DecodedClip(frames, len(seen.whole), seen.count - len(seen.whole), bool(seen.cut))


@dataclass(frozen=True)
class _Seen:
    """What the counting pass found: the numbers of whole frames, the number of all, and how the clip is cut."""

    whole: list[int]
    count: int
    cut: str


def _count(path: str | Path, settings: DecodeSettings) -> _Seen:
    """Decode everything once, and refuse what is not worth a second time."""
    whole, count, last = [], 0, True
    with _open(path, settings) as (container, stream):
        for frame in _frames(container, stream, settings):
            last = frame is not None
            if last:
                whole.append(count)
            count += 1
            if count > settings.max_frames:
                raise UnreadableClipError(f"has more than max_frames = {settings.max_frames:,} frames")
        declared = stream.frames
    if not whole:
        raise UnreadableClipError("holds no whole frame")
    if count - len(whole) > _MOST_DAMAGED * count + 1:
        raise UnreadableClipError(f"is damaged: {count - len(whole)} of {count} frames")
    cut = _how_cut(path, len(whole), count, declared, last)
    if cut and not settings.keep_cut:
        raise UnreadableClipError(f"is cut short: {cut} (keep_cut keeps what there is)")
    return _Seen(whole, count, cut)


def _how_cut(path: str | Path, whole: int, count: int, declared: int, last: bool) -> str:
    """Say how one sees that a clip lacks its end; "" if it does not."""
    if not last:
        return f"frame {count}, its last, is incomplete"
    if whole < (1 - _MOST_DAMAGED) * declared - 1:
        return f"{whole} of {declared} frames decode"
    if ends_early(path) and (not declared or whole < declared):
        return f"the file ends inside a packet, after {whole} frames"
    return ""


def _collect(path: str | Path, wanted: list[int], settings: DecodeSettings) -> np.ndarray:
    """Decode up to the last wanted frame and keep the wanted ones, resized, as (K, height, width, 3)."""
    from av.video.reformatter import VideoReformatter

    reformat = partial(VideoReformatter().reformat, width=settings.width, height=settings.height)
    frames = np.empty((len(wanted), settings.height, settings.width, 3), dtype=np.uint8)
    place = {number: position for position, number in enumerate(wanted)}
    with _open(path, settings) as (container, stream):
        for number, frame in enumerate(_frames(container, stream, settings)):
            if number in place:
                if frame is None:
                    raise UnreadableClipError("decodes differently each time")
                frames[place.pop(number)] = reformat(frame, format="rgb24", interpolation="AREA").to_ndarray()
            if not place:
                return frames
    raise UnreadableClipError("changed while it was read")


@contextmanager
def _open(path: str | Path, settings: DecodeSettings) -> Iterator[tuple[Any, Any]]:
    """Open the first video stream with the limits set."""
    av = require_av()
    options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
    with av.open(f"file:{Path(path).absolute()}", options=options) as container:
        if not container.streams.video:
            raise UnreadableClipError("holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise UnreadableClipError("is encoded in a way that no decoder here knows")
        _check_size(stream.codec_context, settings)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(settings.max_pixels)}
        yield container, stream


def _frames(container: Any, stream: Any, settings: DecodeSettings) -> Iterator[Any]:
    """Yield every frame in order; None stands for one that did not decode whole."""
    av = require_av()
    for packet in container.demux(stream):
        try:
            decoded = packet.decode()
        except av.error.InvalidDataError:
            yield None
            continue
        for frame in decoded:
            _check_size(frame, settings)
            yield None if frame.is_corrupt else frame


def _check_size(shown: Any, settings: DecodeSettings) -> None:
    pixels = shown.width * shown.height
    if pixels > settings.max_pixels:
        raise UnreadableClipError(
            f"has frames of {shown.width}x{shown.height}, more than max_pixels = {settings.max_pixels:,}"
        )
