"""Procedural clips as one small array file: what `make_clips` films, as grey frames that a demo can ship."""

from __future__ import annotations

import numpy as np

from trcompress.data.drawing import draw_clip, group_looks
from trcompress.data.motions import MOTIONS
from trcompress.errors import UsageError

GREY = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601 luma."""
LEVELS = 16
"""Shades of grey that are kept: the frames compress better, and a motion needs no more."""


def clip_arrays(
    *,
    size: tuple[int, int] = (48, 36),
    frames: int = 6,
    classes: int = 7,
    groups: int = 500,
    test_share: float = 0.25,
    seed: int = 0,
    test_seed: int = 1,
) -> dict[str, np.ndarray]:
    """Render one grey clip of every class and group, divided by group: test looks are never trained on.

    Args:
        size: (width, height) of a frame.
        frames: per clip.
        classes: the first so many of `MOTIONS`.
        groups: looks: the thing that moves, its colour, place and size, the background and the tempo.
        test_share: of the groups, the last ones.
        seed: of the training clips; same seed, same clips.
        test_seed: of the test clips. Whoever has looked at scores while choosing settings draws new ones with it.

    Returns:
        `x_train`, `x_test` (N, frames, height * width) uint8, `y_*` names of motions, `group_*`.

    Raises:
        UsageError: more classes than there are motions, or nothing to test or train on.

    Example:
        >>> clip_arrays(size=(16, 12), classes=2, groups=4)["x_test"].shape
        (2, 6, 192)
    """
    tests = round(groups * test_share)
    if not (1 < classes <= len(MOTIONS) and 0 < tests < groups):
        raise UsageError(
            f"clips need 2..{len(MOTIONS)} `classes`, and groups to train and to test on: got classes={classes}, "
            f"groups={groups} with test_share={test_share}"
        )
    names = list(MOTIONS)[:classes]
    looks = {drawn: list(group_looks(groups, drawn)) for drawn in (seed, test_seed)}
    seeds = [seed] * (groups - tests) + [test_seed] * tests
    clips = [
        _grey(draw_clip(looks[drawn][group], MOTIONS[name], frames, size, _generator(drawn, label, group)))
        for group, drawn in enumerate(seeds)
        for label, name in enumerate(names)
    ]
    x, y, group = np.stack(clips), np.array(names * groups), np.repeat(np.arange(groups), classes)
    test = group >= groups - tests
    return {
        f"{what}_{part}": values[rows]
        for part, rows in (("train", ~test), ("test", test))
        for what, values in (("x", x), ("y", y), ("group", group))
    }


def _generator(seed: int, label: int, group: int) -> np.random.Generator:
    return np.random.default_rng((seed, 1, label, group, 0))


def _grey(clip: object) -> np.ndarray:
    """(frames, height, width, 3) to (frames, height * width), in few shades of grey."""
    pictures = np.stack(list(clip)) @ GREY  # type: ignore[call-overload]
    step = 256 // LEVELS
    return (pictures.astype(np.uint8) // step * (255 // (LEVELS - 1))).reshape(len(pictures), -1)
