"""Which frames of a sequence stand for it."""

from __future__ import annotations

import numpy as np


def evenly_spaced(available: int, count: int) -> np.ndarray:
    """Return the middles of `count` equal stretches of `available` frames; short sequences repeat frames.

    Example:
        >>> evenly_spaced(30, 6).tolist()
        [2, 7, 12, 17, 22, 27]
        >>> evenly_spaced(2, 4).tolist()
        [0, 0, 1, 1]
    """
    return (2 * np.arange(count, dtype=np.int64) + 1) * available // (2 * count)


def pick_frames(available: int, count: int, rng: np.random.Generator | None) -> np.ndarray:
    """Return `count` ascending frame numbers below `available`: random, or evenly spaced without `rng`.

    Random frames are distinct unless there are fewer than `count`.
    """
    if rng is None:
        return evenly_spaced(available, count)
    if available < count:
        return np.sort(rng.integers(available, size=count))
    return np.sort(rng.choice(available, size=count, replace=False))
