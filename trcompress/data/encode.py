"""Pictures to real video files: MPEG-1 program streams (.mpg) and MPEG-4 in AVI (.avi)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from trcompress.data.decode import require_av
from trcompress.errors import UsageError

_KINDS = {".mpg": ("mpeg", "mpeg1video"), ".avi": ("avi", "mpeg4")}
_BITS_PER_PIXEL = 0.6


def encode_clip(path: str | Path, frames: np.ndarray, frame_rate: int = 25) -> None:
    """Write frames as a video file, whose kind its name tells.

    Equal frames give equal bytes with the same version of PyAV.

    Args:
        path: ends in .mpg or .avi.
        frames: (F, height, width, 3) uint8 RGB; sides are even.
        frame_rate: frames per second; one that MPEG-1 knows (24, 25, 30, 50, 60).

    Raises:
        UsageError: the suffix is another.
        MissingExtraError: PyAV is not installed.
    """
    av = require_av()
    suffix = Path(path).suffix.lower()
    if suffix not in _KINDS:
        raise UsageError(f"clips are written as {' or '.join(_KINDS)}: got {path}; rename it")
    container_format, codec = _KINDS[suffix]
    _, height, width, _ = frames.shape
    with av.open(str(path), "w", format=container_format, container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(codec, rate=frame_rate)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = int(_BITS_PER_PIXEL * width * height * frame_rate)
        stream.codec_context.thread_count = 1
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
